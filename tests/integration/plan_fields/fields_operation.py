"""How a run is carried out: saving, devices, the picture in the result, where things go."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from services.store.publications import target_of
from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Group
from tests.integration.plan_fields.world import Files, World, stock_linears
from tests.support.plots import tensorboard_points, wandb_runs
from trainer_core.config.plan import Plan
from trainer_core.engine.step import SingleProcess
from trainer_core.errors import DeviceError
from trainer_core.hidream.loading import load_scheduler
from trainer_core.local.data import find_data_folders
from trainer_core.local.run import output_dir_of
from trainer_core.local.trackers import trackers
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import Compute
from trainer_core.process.events import EventWriter
from trainer_core.validation.sample import sample_for_result

GROUP: Final = Group()


@GROUP.observes(
    "operation.checkpoint_step_interval",
    files=Files(config={"checkpoint_step_interval": 2}),
    reset=1,
)
def saves_now_and_then(plan: Plan, world: World) -> None:
    expect(world.trace(plan).reported("checkpoint", "step"), [2, 3])


@GROUP.observes(
    "operation.checkpoints_total_limit",
    files=Files(config={"checkpoints_total_limit": 2}),
    reset=1,
)
def keeps_the_newest(plan: Plan, world: World) -> None:
    folder = world.locally(plan, world.new_folder()).folder / "checkpoints"
    expect(sorted(path.name for path in folder.iterdir()), ["step-00000002", "step-00000003"])


@GROUP.observes("operation.resume_from", reset="")
def goes_on(plan: Plan, world: World) -> None:
    earlier = world.trace(world.plan(Files())).folder
    output = world.new_folder()
    shutil.copytree(earlier / "checkpoints", output / "checkpoints")
    trace = world.locally(plan, output)
    expect(trace.reported("step", "step"), [])  # all three were taken
    expect(Path(trace.document("job.json")["resume_from"]).name, "step-00000003")


_RECOMPUTED: Final = Files(
    config={"gradient_checkpointing": True, "gradient_checkpointing_interval": 3}
)


@GROUP.observes(
    "operation.gradient_checkpointing",
    files=_RECOMPUTED,
    reset=False,
)
@GROUP.observes(
    "operation.gradient_checkpointing_interval",
    files=_RECOMPUTED,
    reset=2,
)
def computed_twice(plan: Plan, world: World) -> None:
    parts = world.parts(plan)
    transformer = parts.network.transformer
    blocks = [*transformer.double_stream_blocks, *transformer.single_stream_blocks]
    calls = [0] * len(blocks)
    for number, block in enumerate(blocks):

        def count(*_: Any, number: int = number) -> None:
            calls[number] += 1

        block.block.norm1_i.register_forward_pre_hook(count)
    parts.backend.losses(world.batches(plan, parts, 1)[0]).sum().backward()
    expect(calls, [2, 1, 1, 2])


@GROUP.observes(
    "operation.device",
    reset="cuda",
    refuses=(DeviceError,),
)
def on_the_cpu(plan: Plan, world: World) -> None:
    devices = {each.device.type for each in world.parts(plan).network.transformer.parameters()}
    expect(devices, {"cpu"})


@GROUP.observes(
    "operation.quantize_via",
    files=Files(config={"base_model_precision": "int8-quanto", "quantize_via": "cpu"}),
    reset="accelerator",
)
def quantized_before_it_moves(plan: Plan, world: World) -> None:
    linears = len(stock_linears(world))
    done = world.parts(plan).network.preparation
    expect(done, (f"quantized {linears} linears on cpu", "moved to cpu"))


@GROUP.observes(
    "operation.ema_device",
    files=Files(config={"ema_device": "cpu"}),
    reset="accelerator",
)
def means_on_the_cpu(plan: Plan, world: World) -> None:
    parts = world.parts(plan)
    elsewhere = Compute(device=torch.device("meta"), weights=torch.float32, is_autocast=False)
    backend = SingleProcess(replace(parts.network, compute=elsewhere), plan)
    expect({mean.device.type for mean in backend.tensors().ema.values()}, {"cpu"})


@GROUP.observes("operation.output_dir", reset="elsewhere")
def written_there(plan: Plan, world: World) -> None:
    expect(output_dir_of(world.local_run(None), plan), Path.cwd() / "out")


@GROUP.observes(
    "operation.data_dirs",
    reset={"cats": "dogs"},
)
def found_there(plan: Plan, world: World) -> None:
    expect(find_data_folders(plan, (world.folder,)), {"cats": world.folder / "cats"})
    expect(len(world.data(plan).items), 4)


@GROUP.observes(
    "operation.text_encoder_4_source",
    files=Files(config={"pretrained_text_encoder_4_model_name_or_path": "llama"}),
    reset=None,
)
def fourth_encoder_from_there(plan: Plan, world: World) -> None:
    base, llama = world.folder / "main", world.folder / "llama"
    if not base.exists():
        shutil.copytree(world.base.folder, base)
        (base / "reverie-base.json").unlink()
        for part in ("text_encoder_4", "tokenizer_4"):
            shutil.copytree(base / part, llama / part)
    trace = world.locally(plan, world.new_folder(), base=str(base), trains=False)
    used = Path(trace.document("job.json")["base_model_dir"]) / "text_encoder_4" / "config.json"
    expect(used.resolve().is_relative_to(llama.resolve()), True)


def _plotted(plan: Plan, world: World) -> Path:
    """The output folder of a run whose trackers heard of one step."""
    output = world.new_folder()
    with (
        EventWriter(output / "events.jsonl") as events,
        trackers(plan, output, events, from_step=0),
    ):
        events.emit("step", 1, {"loss": 0.5})
    return output


_TENSORBOARD: Final = Files(config={"report_to": "tensorboard", "tracker_run_name": "first"})


@GROUP.observes(
    "operation.report_to[]",
    files=_TENSORBOARD,
    reset=[],
)
@GROUP.observes(
    "operation.tracker_run_name",
    files=_TENSORBOARD,
    reset="second",
)
def plotted_by_name(plan: Plan, world: World) -> None:
    points = tensorboard_points(_plotted(plan, world) / "logs" / "first")
    expect(points, {"train/loss": [(1, 0.5)]})


@GROUP.observes(
    "operation.tracker_project_name",
    files=Files(config={"report_to": "wandb", "tracker_project_name": "moons"}),
    reset="suns",
)
def plotted_in_its_project(plan: Plan, world: World) -> None:
    ((facts, _),) = wandb_runs(_plotted(plan, world) / "logs")
    expect(facts["project"], "moons")


@cache
def _expected_picture(world: World) -> Image.Image:
    """What the files of ``world`` ask for, in so many words."""
    plan = world.plan(Files())
    parts, prompts = world.parts(plan), world.index(plan).prompts
    with torch.no_grad():
        return sample_image(
            parts.network.transformer,
            parts.vae,
            load_scheduler(world.base.folder),
            parts.batches.text(prompts["a green dog"]),
            parts.batches.text(prompts["blurry"]),
            options=SamplingOptions(
                width_px=64,
                height_px=128,
                steps=2,
                guidance=3.0,
                seed=7,
            ),
        )


def _enter_pictures() -> None:
    resets: dict[str, Any] = {
        "prompt": "a red cat",
        "negative_prompt": "sharp",
        "steps": 3,
        "guidance": 1.0,
        "width_px": 128,
        "height_px": 64,
        "seed": 8,
    }
    for name, reset in resets.items():
        GROUP.observes(
            f"operation.sample_{name}",
            reset=reset,
        )(_is_the_picture)


def _is_the_picture(plan: Plan, world: World) -> None:
    parts = world.parts(plan)
    picture = sample_for_result(
        parts.network.transformer,
        parts.vae,
        world.base.folder,
        operation=plan.operation,
        index=world.index(plan),
        read_text=parts.batches.text,
        compute=parts.network.compute,
    )
    expected = _expected_picture(world)
    assert expected.size == (64, 128)
    expect(picture.size, expected.size)
    expect(picture.tobytes(), expected.tobytes())


_enter_pictures()

_PUBLISHED: Final = Files(
    config={"push_to_hub": True, "hub_model_id": "ada/cats", "model_card_private": False}
)


@GROUP.observes(
    "operation.publication.hub_model_id",
    files=_PUBLISHED,
    reset="ada/dogs",
)
@GROUP.observes(
    "operation.publication.private",
    files=_PUBLISHED,
    reset=True,
)
def published_there(plan: Plan, world: World) -> None:
    stored = json.loads(plan.model_dump_json())
    expect(target_of(stored), {"kind": "hub", "repo_id": "ada/cats", "private": False})
