"""The pictures that are made while it trains: which, when and how."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.files import Files
from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Group
from tests.support.adapters import EXAMPLES
from tests.support.tiny_clip import write_tiny_clip
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.engine.pictures import make_first_pictures, make_pictures
from trainer_core.engine.setup import LoadedRun
from trainer_core.engine.state import Run, TrainingState, open_run
from trainer_core.engine.throughput import Throughput
from trainer_core.export.adapter_file import read_modules
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.samplers import load_sampler
from trainer_core.painting.attach import laid_over
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import sample_image
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter

GROUP: Final = Group()

_PICTURES: Final = Files(
    config={
        "validation_step_interval": 2,
        "validation_noise_scheduler": "unipc",
        "init_lokr_norm": 0.5,
        "ema_validation": "none",
    }
)


def _opened(plan: Plan, environment: Environment, events: EventWriter) -> Run:
    job = environment.job(plan).model_copy(update={"output_dir": str(environment.new_folder())})
    return open_run(job, environment.load(plan), events, Control(None))


def _painted(plan: Plan, environment: Environment, *, is_first: bool = False) -> Path:
    """The output folder of a run after the pictures of its start, or of weights at step 0."""
    with EventWriter(environment.new_folder() / "events.jsonl") as events:
        run = _opened(plan, environment, events)
        state = TrainingState(throughput=Throughput(run.last_step))
        (make_first_pictures if is_first else make_pictures)(run, state)
        return Path(run.job.output_dir)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("samples/*/*.png"))


@cache
def _expected_pixels(environment: Environment, strength: float) -> Any:
    """With every setting written out."""
    plan = environment.plan(_PICTURES)
    loaded, prompts = environment.load(plan), environment.index(plan).prompts
    adapter = loaded.network.adapter
    assert adapter is not None
    with adapter.switch.exported(strength):
        return _sampled(loaded, prompts, environment.base.folder)


@torch.no_grad()
def _sampled(loaded: LoadedRun, prompts: Mapping[str, int], base: Path) -> Any:
    image = sample_image(
        loaded.network.transformer,
        loaded.vae,
        load_sampler(base, "unipc", 1.0),
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
    return np.asarray(image)


def the_picture_is_as_planned(plan: Plan, environment: Environment) -> None:
    _expect_pixels(plan, environment, 1.0)


def _expect_pixels(plan: Plan, environment: Environment, strength: float) -> None:
    folder = _painted(plan, environment)
    expect(_names(folder), ["validation-64x128-7.png"])
    (file,) = folder.glob("samples/*/*.png")
    wanted = _expected_pixels(environment, strength)
    expect(np.array_equal(np.asarray(Image.open(file)), wanted), True)


_RESETS: Final[dict[str, Any]] = {
    "prompts[].name": "cat",
    "prompts[].text": "blurry",
    "negative_prompt": "a green dog",
    "sizes[].width_px": 128,
    "sizes[].height_px": 64,
    "seeds[]": lambda body: body["operation"]["pictures"].update(seeds=[8]),
    "steps": 3,
    "guidance": 1.0,
    "guidance_rescale": 0.0,
    "sampler": "euler",
}
for _name, _reset in _RESETS.items():
    GROUP.add(
        f"operation.pictures.{_name}", the_picture_is_as_planned, files=_PICTURES, reset=_reset
    )


@GROUP.observes(
    "operation.pictures.strength",
    files=Files(config={**_PICTURES.config, "validation_lycoris_strength": 0.5}),
    reset=1.0,
)
def the_adapter_has_half_its_strength(plan: Plan, environment: Environment) -> None:
    _expect_pixels(plan, environment, 0.5)


@GROUP.observes(
    "operation.pictures.prompts[].strength",
    files=Files(
        config={**_PICTURES.config, "validation_prompt": None},
        prompts={"validation": {"prompt": "a green dog", "adapter_strength": 0.5}},
    ),
    reset=None,
)
def the_adapter_has_the_strength_of_the_prompt(plan: Plan, environment: Environment) -> None:
    _expect_pixels(plan, environment, 0.5)


def _due(plan: Plan, environment: Environment) -> list[int]:
    """The steps up to 8 after which pictures are due."""
    with EventWriter(environment.new_folder() / "events.jsonl") as events:
        run = _opened(plan, environment, events)
        return [step for step in range(1, 9) if run.is_picture_step(step)]


@GROUP.observes("operation.pictures.step_interval", files=_PICTURES, reset=3)
def every_second_step_has_pictures(plan: Plan, environment: Environment) -> None:
    expect(_due(plan, environment), [2, 4, 6, 8])


_BY_EPOCHS: Final = Files(config={"validation_epoch_interval": 1, "train_batch_size": 4})


@GROUP.observes("operation.pictures.epoch_interval", files=_BY_EPOCHS, reset=2)
def each_epoch_of_two_steps_ends_with_pictures(plan: Plan, environment: Environment) -> None:
    expect(_due(plan, environment), [2, 4, 6, 8])


@GROUP.observes(
    "operation.pictures.after_step",
    files=Files(config={**_PICTURES.config, "validate_after_step": 5}),
    reset=0,
)
def no_picture_falls_before_step_5(plan: Plan, environment: Environment) -> None:
    expect(_due(plan, environment), [6, 8])


@GROUP.observes(
    "operation.pictures.after_epoch",
    files=Files(config={**_BY_EPOCHS.config, "validate_after_epoch": 2}),
    reset=0,
)
def no_picture_falls_before_two_epochs_are_over(plan: Plan, environment: Environment) -> None:
    expect(_due(plan, environment), [4, 6, 8])


@GROUP.observes("operation.pictures.has_base", files=_PICTURES, reset=False)
def the_base_is_painted_first(plan: Plan, environment: Environment) -> None:
    folder = _painted(plan, environment, is_first=True)
    expect(_names(folder), ["validation-64x128-7-base.png"])


@GROUP.observes(
    "operation.pictures.on_startup",
    files=Files(
        config={
            **_PICTURES.config,
            "validation_on_startup": True,
            "init_lokr_norm": None,
            "init_lora": "earlier",
        },
        init_lora=Files(),
    ),
    reset=False,
)
def the_adapter_that_it_starts_from_is_painted(plan: Plan, environment: Environment) -> None:
    with EventWriter(environment.new_folder() / "events.jsonl") as events:
        earlier = environment.earlier_result(Files(init_lora=Files()))
        job = environment.job(plan).model_copy(
            update={"output_dir": str(environment.new_folder()), "start_from": str(earlier)}
        )
        run = open_run(job, environment.load(environment.plan(Files())), events, Control(None))
        make_first_pictures(run, TrainingState(throughput=Throughput(run.last_step)))
    names = ["validation-64x128-7-base.png", "validation-64x128-7.png"]
    expect(_names(Path(job.output_dir)), names)


@GROUP.observes(
    "operation.pictures.ema",
    files=Files(config={**_PICTURES.config, "ema_validation": "ema_only"}),
    reset="comparison",
)
def only_the_mean_is_painted(plan: Plan, environment: Environment) -> None:
    expect(_names(_painted(plan, environment)), ["validation-64x128-7-ema.png"])


@GROUP.observes(
    "operation.pictures.clip_model",
    files=Files(
        config={
            **_PICTURES.config,
            "evaluation_type": "clip",
            "pretrained_evaluation_model_name_or_path": "clip",
        }
    ),
    reset=None,
)
def the_model_that_scores_pictures_is_found(plan: Plan, environment: Environment) -> None:
    if not (environment.folder / "clip").exists():
        write_tiny_clip(environment.folder / "clip")
    run = environment.load_locally(plan, environment.new_folder(), str(environment.base.folder))
    expect(run.document("job.json")["clip_dir"], str(environment.folder / "clip"))


@GROUP.observes(
    "operation.pictures.time_share",
    files=Files(
        config={
            **_PICTURES.config,
            "num_validation_images": 3,
            "validation_num_inference_steps": 1,
            "validation_time_share": 1e-6,
        }
    ),
    reset=None,
)
def what_has_no_time_is_left_out(plan: Plan, environment: Environment) -> None:
    file = environment.new_folder() / "events.jsonl"
    with EventWriter(file) as events:
        run = _opened(plan, environment, events)
        make_pictures(run, TrainingState(throughput=Throughput(run.last_step)))
    expect(_names(Path(run.job.output_dir)), ["validation-64x128-7.png"])
    warnings = [event for event in map(json.loads, file.open()) if event["event"] == "warning"]
    expect([warning["code"] for warning in warnings], ["picture_time"])
    assert warnings[0]["message"].startswith("2 of 3 pictures after step 0 are left out")
    assert "validation_time_share (1e-06)" in warnings[0]["message"]


_PREVIEWS: Final = Files(
    config={
        **_PICTURES.config,
        "validation_num_inference_steps": 5,
        "validation_preview": True,
        "validation_preview_steps": 2,
    }
)


def _events(plan: Plan, environment: Environment) -> dict[str, list[dict[str, Any]]]:
    """The previews and warnings while the pictures of a step are made."""
    file = environment.new_folder() / "events.jsonl"
    with EventWriter(file) as events:
        run = _opened(plan, environment, events)
        make_pictures(run, TrainingState(throughput=Throughput(run.last_step)))
    every = [json.loads(line) for line in file.open()]
    return {name: [e for e in every if e["event"] == name] for name in ("preview", "warning")}


@GROUP.observes("operation.pictures.previews.steps", files=_PREVIEWS, reset=1)
def every_second_step_of_the_sampler_has_a_preview(plan: Plan, environment: Environment) -> None:
    previews = _events(plan, environment)["preview"]
    expect([(each["sampler_step"], each["sampler_steps"]) for each in previews], [(2, 5), (4, 5)])


@GROUP.observes(
    "operation.pictures.previews.autoencoder",
    files=Files(
        config={
            **_PREVIEWS.config,
            "validation_num_inference_steps": 2,
            "validation_preview_autoencoder": "no/such/one",
        }
    ),
    reset=None,
)
def an_autoencoder_that_is_missing_is_told(plan: Plan, environment: Environment) -> None:
    """Previews are made without it."""
    events = _events(plan, environment)
    expect([warning["code"] for warning in events["warning"]], ["preview_autoencoder"])
    assert "no Tiny AutoEncoder no/such/one" in events["warning"][0]["message"]
    expect(len(events["preview"]), 1)


_FURTHER: Final = Files(
    config={
        **_PICTURES.config,
        "validation_adapter_path": "further",
        "validation_adapter_strength": 0.5,
    }
)


def _further(environment: Environment, name: str) -> Path:
    """The file of an adapter that no run here trains."""
    folder = environment.folder / name
    if not folder.exists():
        EXAMPLES["lora"](load_transformer(environment.base.folder, torch.float32)).write(folder)
    return folder / ADAPTER_NAME


@GROUP.observes("operation.pictures.adapter.path", files=_FURTHER, reset="further too")
def the_further_adapter_is_found(plan: Plan, environment: Environment) -> None:
    file, _ = (_further(environment, name) for name in ("further", "further too"))
    run = environment.load_locally(plan, environment.new_folder(), str(environment.base.folder))
    expect(run.document("job.json")["picture_adapter"], str(file))


@GROUP.observes("operation.pictures.adapter.strength", files=_FURTHER, reset=1.0)
def the_further_adapter_has_half_its_strength(plan: Plan, environment: Environment) -> None:
    file = _further(environment, "further")
    with EventWriter(environment.new_folder() / "events.jsonl") as events:
        run = _opened(plan, environment, events)
        run = replace(run, job=run.job.model_copy(update={"picture_adapter": str(file)}))
        make_first_pictures(run, TrainingState(throughput=Throughput(run.last_step)))
    network = run.loaded.network
    modules = read_modules(file, hidream_linears(network.transformer.config))
    assert network.adapter is not None
    with network.adapter.switch.off(), laid_over(network.transformer, modules, 0.5):
        wanted = _sampled(run.loaded, run.job.index.prompts, environment.base.folder)
    (picture,) = Path(run.job.output_dir).glob("samples/*/*-base.png")
    expect(np.array_equal(np.asarray(Image.open(picture)), wanted), True)
