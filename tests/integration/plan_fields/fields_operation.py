"""Saving, resuming, devices, folders, trackers, the sample image and the publication."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from services.store.publications import publishes_checkpoints, target_of
from tests.integration.plan_fields.environment import Environment, stock_linears
from tests.integration.plan_fields.files import Files
from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Group
from tests.support.plots import tensorboard_points, wandb_runs
from trainer_core.config.plan import Plan
from trainer_core.engine.step import SingleProcess
from trainer_core.errors import DeviceError
from trainer_core.hidream.samplers import load_sampler
from trainer_core.local.data import find_data_folders
from trainer_core.local.run import output_dir_of
from trainer_core.local.trackers import trackers
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import Compute
from trainer_core.process.cublas import fix_workspace
from trainer_core.process.events import EventWriter
from trainer_core.validation.sample import sample_for_result

GROUP: Final = Group()


@GROUP.observes(
    "operation.checkpoint_step_interval",
    files=Files(config={"checkpoint_step_interval": 2}),
    reset=1,
)
def every_second_step_and_the_last_are_saved(plan: Plan, environment: Environment) -> None:
    expect(environment.trained_run(plan).reported("checkpoint", "step"), [2, 3])


@GROUP.observes(
    "operation.checkpoint_epoch_interval",
    files=Files(
        config={
            "checkpoint_epoch_interval": 1,
            "checkpoint_step_interval": 100,
            "train_batch_size": 4,
        }
    ),
    reset=None,
)
def the_end_of_an_epoch_of_two_batches_is_saved(plan: Plan, environment: Environment) -> None:
    expect(environment.trained_run(plan).reported("checkpoint", "step"), [2, 3])


@GROUP.observes(
    "operation.checkpoints_total_limit", files=Files(config={"checkpoints_total_limit": 2}), reset=1
)
def the_two_newest_checkpoints_are_kept(plan: Plan, environment: Environment) -> None:
    folder = environment.run_locally(plan, environment.new_folder()).folder / "checkpoints"
    expect(sorted(path.name for path in folder.iterdir()), ["step-00000002", "step-00000003"])


@GROUP.observes("operation.resume_from", reset="")
def the_run_resumes_from_the_newest_checkpoint(plan: Plan, environment: Environment) -> None:
    earlier = environment.trained_run(environment.plan(Files())).folder
    output = environment.new_folder()
    shutil.copytree(earlier / "checkpoints", output / "checkpoints")
    run = environment.run_locally(plan, output)
    expect(run.reported("step", "step"), [])  # all three were taken
    expect(Path(run.document("job.json")["resume_from"]).name, "step-00000003")


_CHECKPOINTED: Final = Files(
    config={"gradient_checkpointing": True, "gradient_checkpointing_interval": 3}
)


@GROUP.observes("operation.gradient_checkpointing", files=_CHECKPOINTED, reset=False)
@GROUP.observes("operation.gradient_checkpointing_interval", files=_CHECKPOINTED, reset=2)
def every_third_block_is_computed_twice(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    transformer = loaded.network.transformer
    blocks = [*transformer.double_stream_blocks, *transformer.single_stream_blocks]
    calls = [0] * len(blocks)
    for number, block in enumerate(blocks):

        def count(*_: Any, number: int = number) -> None:
            calls[number] += 1

        block.block.norm1_i.register_forward_pre_hook(count)
    loaded.backend.losses(environment.batches(plan, loaded, 1)[0]).sum().backward()
    expect(calls, [2, 1, 1, 2])


@GROUP.observes("operation.device", reset="cuda", refuses=(DeviceError,))
def the_weights_are_on_the_cpu(plan: Plan, environment: Environment) -> None:
    devices = {each.device.type for each in environment.load(plan).network.transformer.parameters()}
    expect(devices, {"cpu"})


@GROUP.observes(
    "operation.deterministic",
    files=Files(config={"device": "auto", "deterministic": True}),
    reset=False,
)
def the_workspace_of_cublas_is_fixed(plan: Plan, environment: Environment) -> None:
    env: dict[str, str] = {}
    fix_workspace(plan.operation, env)
    expect(env, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})


@GROUP.observes(
    "operation.quantize_via",
    files=Files(config={"base_model_precision": "int8-quanto", "quantize_via": "cpu"}),
    reset="accelerator",
)
def the_base_is_quantised_before_it_moves(plan: Plan, environment: Environment) -> None:
    linears = len(stock_linears(environment))
    done = environment.load(plan).network.preparation
    expect(done, (f"quantized {linears} linears on cpu", "moved to cpu"))


_EMA_OF_ALL_WEIGHTS: Final = Files(
    config={"model_type": "full", "lora_type": None, "ema_device": "cpu"}
)


@GROUP.observes("operation.ema_device", files=_EMA_OF_ALL_WEIGHTS, reset="accelerator")
def the_means_are_on_the_cpu(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    elsewhere = Compute(device=torch.device("meta"), weights=torch.float32, is_autocast=False)
    backend = SingleProcess(replace(loaded.network, compute=elsewhere), plan)
    assert backend._ema is not None
    expect({mean.device.type for mean in backend._ema.means}, {"cpu"})


@GROUP.observes("operation.output_dir", reset="elsewhere")
def the_output_folder_is_the_plans(plan: Plan, environment: Environment) -> None:
    expect(output_dir_of(environment.local_run(None), plan), Path.cwd() / "out")


@GROUP.observes("operation.data_dirs", reset={"cats": "dogs"})
def images_are_found_in_the_plans_folder(plan: Plan, environment: Environment) -> None:
    expect(find_data_folders(plan, (environment.folder,)), {"cats": environment.folder / "cats"})
    expect(len(environment.data(plan).items), 4)


@GROUP.observes(
    "operation.text_encoder_4_source",
    files=Files(config={"pretrained_text_encoder_4_model_name_or_path": "llama"}),
    reset=None,
)
def the_fourth_encoder_comes_from_its_own_folder(plan: Plan, environment: Environment) -> None:
    base, llama = environment.folder / "main", environment.folder / "llama"
    if not base.exists():
        shutil.copytree(environment.base.folder, base)
        (base / "reverie-base.json").unlink()
        for part in ("text_encoder_4", "tokenizer_4"):
            shutil.copytree(base / part, llama / part)
    run = environment.load_locally(plan, environment.new_folder(), str(base))
    used = Path(run.document("job.json")["base_model_dir"]) / "text_encoder_4" / "config.json"
    expect(used.resolve().is_relative_to(llama.resolve()), True)


def _plot(plan: Plan, environment: Environment) -> Path:
    """The output folder of a run whose trackers received one step event."""
    output = environment.new_folder()
    with (
        EventWriter(output / "events.jsonl") as events,
        trackers(plan, output, events, from_step=0),
    ):
        events.emit("step", 1, {"loss": 0.5})
    return output


_TENSORBOARD: Final = Files(config={"report_to": "tensorboard", "tracker_run_name": "first"})


@GROUP.observes("operation.report_to[]", files=_TENSORBOARD, reset=[])
@GROUP.observes("operation.tracker_run_name", files=_TENSORBOARD, reset="second")
def the_step_is_plotted_under_the_runs_name(plan: Plan, environment: Environment) -> None:
    points = tensorboard_points(_plot(plan, environment) / "logs" / "first")
    expect(points, {"train/loss": [(1, 0.5)]})


@GROUP.observes(
    "operation.tracker_project_name",
    files=Files(config={"report_to": "wandb", "tracker_project_name": "moons"}),
    reset="suns",
)
def the_step_is_plotted_in_its_project(plan: Plan, environment: Environment) -> None:
    ((facts, _),) = wandb_runs(_plot(plan, environment) / "logs")
    expect(facts["project"], "moons")


@cache
def _expected_image(environment: Environment) -> Image.Image:
    """The sample image, with every setting written out."""
    plan = environment.plan(Files())
    loaded, prompts = environment.load(plan), environment.index(plan).prompts
    with torch.no_grad():
        return sample_image(
            loaded.network.transformer,
            loaded.vae,
            load_sampler(environment.base.folder),
            loaded.batches.text(prompts["a green dog"]),
            loaded.batches.text(prompts["blurry"]),
            options=SamplingOptions(
                width_px=64,
                height_px=128,
                steps=2,
                guidance=3.0,
                guidance_rescale=0.6,
                seed=7,
            ),
        )


def the_sample_image_is_as_planned(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    image = sample_for_result(
        loaded.network,
        loaded.vae,
        environment.base.folder,
        operation=plan.operation,
        index=environment.index(plan),
        read_text=loaded.batches.text,
    )
    expected = _expected_image(environment)
    assert expected.size == (64, 128)
    expect(image.size, expected.size)
    expect(image.tobytes(), expected.tobytes())


_IMAGE_RESETS: Final[dict[str, Any]] = {
    "prompt": "a red cat",
    "negative_prompt": "sharp",
    "steps": 3,
    "guidance": 1.0,
    "guidance_rescale": 0.0,
    "width_px": 128,
    "height_px": 64,
    "seed": 8,
}
for _name, _reset in _IMAGE_RESETS.items():
    GROUP.add(f"operation.sample_{_name}", the_sample_image_is_as_planned, reset=_reset)


_PUBLISHED: Final = Files(
    config={"push_to_hub": True, "hub_model_id": "ada/cats", "model_card_private": False}
)


@GROUP.observes("operation.publication.hub_model_id", files=_PUBLISHED, reset="ada/dogs")
@GROUP.observes("operation.publication.private", files=_PUBLISHED, reset=True)
def the_result_goes_to_that_repository(plan: Plan, environment: Environment) -> None:
    stored = json.loads(plan.model_dump_json())
    target = {"kind": "hub", "repo_id": "ada/cats", "private": False, "secret": None}
    expect(target_of(stored), target)


@GROUP.observes(
    "operation.publication.checkpoints",
    files=Files(config={**_PUBLISHED.config, "push_checkpoints_to_hub": "true"}),
    reset=False,
)
def each_checkpoint_goes_there_too(plan: Plan, environment: Environment) -> None:
    expect(publishes_checkpoints(json.loads(plan.model_dump_json())), True)
