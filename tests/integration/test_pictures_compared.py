"""A picture of a run, what ``generate`` makes of its checkpoint, and what diffusers' pipeline does.

The pipeline has diffusers' own classes only: those of the base model's folder, the transformer that
``merge_folder`` wrote, and a scheduler that is built here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    UniPCMultistepScheduler,
)
from PIL import Image

from tests.support.painting_runs import PICTURES, job_of, run
from trainer_core.config.plan import LokrAdapter, Plan, Sampler
from trainer_core.export.merge import merge_folder
from trainer_core.painting.generate import generate
from trainer_core.painting.options import ImageRequest, PaintingOptions

SEED: Final = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run of one step, and how its picture is made."""

    sampler: Sampler
    strength: float
    shift: float
    options: Mapping[str, Any]
    changed: Callable[[Plan], Plan] = lambda plan: plan
    is_bf16: bool = False
    size_px: tuple[int, int] = (96, 48)
    steps: int = 3
    guidance: float = 2.5
    rescale: float = 0.0

    @property
    def size(self) -> str:
        return "{}x{}".format(*self.size_px)


def with_lokr(plan: Plan, **fields: Any) -> Plan:
    """The plan with other settings of its LoKr, where products round."""
    identity = plan.identity
    assert isinstance(identity.adapter, LokrAdapter)
    modules = fields.pop("modules", {})
    adapter = identity.adapter.model_copy(
        update={
            **fields,
            "modules": tuple(each.model_copy(update=modules) for each in identity.adapter.modules),
        }
    )
    return plan.model_copy(update={"identity": identity.model_copy(update={"adapter": adapter})})


_LOKR: Final = {"lora_type": "lycoris"}
CASES: Final = {
    "lokr": Case(
        sampler="unipc",
        strength=0.7,
        shift=2.0,
        options={**_LOKR, "flow_schedule_shift": 2.0, "init_lokr_norm": 0.3},
        changed=partial(with_lokr, multiplier=0.9),
    ),
    "lokr of four factors": Case(
        sampler="lcm",
        strength=1.3,
        shift=3.0,
        options=_LOKR,
        changed=partial(
            with_lokr,
            linear_dim=3,
            linear_alpha=5.0,
            full_matrix=False,
            decompose_both=True,
            use_scalar=False,
            modules={
                "dim": 3,
                "alpha": 5.0,
                "full_matrix": False,
                "decompose_both": True,
                "use_scalar": False,
                "factor": 8,
            },
        ),
    ),
    "lora": Case(
        sampler="euler",
        strength=0.7,
        shift=1.5,
        options={"flow_schedule_shift": 1.5, "lora_rank": 3, "lora_alpha": 5, "lora_dropout": 0},
    ),
}


@dataclass(frozen=True)
class Painted:
    picture: Path
    adapter: Path


def painted(case: Case, tiny: Path, shards: Path, folder: Path) -> Painted:
    """One step with a large learning rate, so that the adapter shows."""
    options = {
        **PICTURES,
        "validation_step_interval": 1,
        "validation_resolution": case.size,
        "validation_num_inference_steps": case.steps,
        "validation_guidance": case.guidance,
        "validation_guidance_rescale": case.rescale,
        "validation_noise_scheduler": case.sampler,
        "validation_lycoris_strength": case.strength,
        "validation_seed": SEED,
        "mixed_precision": "bf16" if case.is_bf16 else "no",
        "disable_benchmark": True,
        "use_ema": False,
        "ema_decay": None,
        "max_train_steps": 1,
        "checkpoint_step_interval": 1,
        "learning_rate": 0.1,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "base_model_precision": "no_change",
        **case.options,
    }
    done = run(job_of(tiny, shards, folder, changed=case.changed, **options))
    assert done.is_finished
    return Painted(
        folder / f"samples/step-000001/validation-{case.size}-{SEED}.png",
        folder / "checkpoints/step-00000001/pytorch_lora_weights.safetensors",
    )


def pixels(image: Path | Image.Image) -> Any:
    return np.asarray(Image.open(image) if isinstance(image, Path) else image, dtype=np.int64)


def generated(case: Case, adapter: Path, tiny: Path, file: Path) -> Any:
    options = PaintingOptions(
        negative_prompt="blurry",
        width_px=case.size_px[0],
        height_px=case.size_px[1],
        steps=case.steps,
        guidance=case.guidance,
        guidance_rescale=case.rescale,
        seed=SEED,
        multiplier=case.strength,
        precision="no_change",
        text_encoder_precision="no_change",
        compute="bf16" if case.is_bf16 else "fp32",
        sampler=case.sampler,
        shift=case.shift,
        device="cpu",
    )
    request = ImageRequest(prompt="a red boat on a lake", file=file)
    generate(tiny, adapter, [request], options, lambda _: None)
    return pixels(file)


_SCHEDULERS: Final[dict[Sampler, Callable[[float], Any]]] = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "lcm": lambda shift: FlowMatchLCMScheduler(shift=shift),
    "unipc": lambda shift: UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    ),
}


def of_the_pipeline(case: Case, adapter: Path, tiny: Path, folder: Path) -> Any:
    merge_folder(
        tiny,
        adapter,
        folder,
        dtype=torch.float32,
        multiplier=case.strength,
        on_module=lambda *_: None,
    )
    transformer = HiDreamImageTransformer2DModel.from_pretrained(folder / "transformer")
    pipeline = HiDreamImagePipeline.from_pretrained(
        tiny, transformer=transformer, scheduler=_SCHEDULERS[case.sampler](case.shift)
    )
    pipeline.set_progress_bar_config(disable=True)
    # It paints every size with the area of this square.
    width_px, height_px = case.size_px
    pipeline.default_sample_size = (width_px * height_px) ** 0.5 * (1 + 1e-9) / 8
    with torch.random.fork_rng(devices=[]):
        image = pipeline(
            "a red boat on a lake",
            negative_prompt="blurry",
            width=width_px,
            height=height_px,
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            generator=torch.manual_seed(SEED),  # from which LCM also draws the noise of its steps
        ).images[0]
    return pixels(image)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_what_generate_and_diffusers_make_of_the_checkpoint(
    name: str, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    made = painted(case, tiny_folder, shards, tmp_path / "run")
    picture = pixels(made.picture)

    assert np.array_equal(generated(case, made.adapter, tiny_folder, tmp_path / "own.png"), picture)
    off = np.abs(of_the_pipeline(case, made.adapter, tiny_folder, tmp_path / "merged") - picture)
    assert off.max() <= 2
    assert (off.max(axis=-1) == 0).mean() >= 0.999
    plain = replace(case, strength=0.0)
    assert not np.array_equal(
        generated(plain, made.adapter, tiny_folder, tmp_path / "plain.png"), picture
    )


@pytest.mark.parametrize("name", [pytest.param("lokr", marks=pytest.mark.deep), "lora"])
def test_generate_makes_the_same_picture_in_bf16(
    name: str, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """A CPU multiplies bf16 slowly, so the picture is small."""
    case = replace(CASES[name], is_bf16=True, size_px=(32, 16), steps=1, guidance=1.0)
    made = painted(case, tiny_folder, shards, tmp_path / "run")

    own = generated(case, made.adapter, tiny_folder, tmp_path / "own.png")
    assert np.array_equal(own, pixels(made.picture))
