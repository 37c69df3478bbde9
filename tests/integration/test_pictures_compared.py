"""A picture of a run, what ``generate`` makes of its checkpoint, and what diffusers' pipeline does.

The pipeline has diffusers' own classes only: those of the base model's folder, the transformer that
``merge_folder`` wrote, and a scheduler that is built here.
"""

import hashlib
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

from tests.support.adapters import EXAMPLES
from tests.support.painting_runs import PICTURES, job_of, run
from tests.support.pictures import png_text
from trainer_core.config.plan import LokrAdapter, PictureAdapter, Plan, Sampler, TextCache
from trainer_core.export.merge import merge_folder
from trainer_core.hidream.loading import load_transformer
from trainer_core.local.export import export_checkpoint
from trainer_core.painting.generate import generate
from trainer_core.painting.options import ImageRequest, PaintingOptions
from trainer_core.process.job import Job
from trainer_core.progress import SilentReporter

SEED: Final = 5
FURTHER_STRENGTH: Final = 0.6
FOUR: Final = "lokr of four factors"


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
    text_cache: TextCache = "no_change"

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
    FOUR: Case(
        sampler="euler",
        strength=1.3,
        shift=3.0,
        options={**_LOKR, "learning_rate": 0.03},
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
        sampler="lcm",
        strength=0.7,
        shift=1.5,
        options={"flow_schedule_shift": 1.5, "lora_rank": 3, "lora_alpha": 5, "lora_dropout": 0},
    ),
}


@dataclass(frozen=True)
class Painted:
    folder: Path
    size: str

    @property
    def picture(self) -> Path:
        return self.folder / f"samples/step-000001/validation-{self.size}-{SEED}.png"

    @property
    def base_picture(self) -> Path:
        return self.folder / f"samples/step-000000/validation-{self.size}-{SEED}-base.png"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints/step-00000001"

    @property
    def adapter(self) -> Path:
        return self.checkpoint / "pytorch_lora_weights.safetensors"


def painted(
    case: Case, tiny: Path, shards: Path, folder: Path, *, further: Path | None = None
) -> Painted:
    """One step with a large learning rate, so that the adapter shows; but then fp32 rounds more.

    ``further``: the file of an adapter that the pictures show too.
    """
    options = {
        **PICTURES,
        "validation_step_interval": 1,
        "validation_resolution": case.size,
        "validation_num_inference_steps": case.steps,
        "validation_guidance": case.guidance,
        "validation_guidance_rescale": case.rescale,
        "text_cache_precision": case.text_cache,
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
    job = job_of(tiny, shards, folder, changed=case.changed, **options)
    done = run(job if further is None else with_further(job, further))
    assert done.is_finished
    return Painted(folder, case.size)


def with_further(job: Job, adapter: Path) -> Job:
    """With an adapter that pictures alone show, as a local run has it."""
    pictures = job.plan.operation.pictures
    assert pictures is not None
    of_pictures = PictureAdapter(path=adapter.name, strength=FURTHER_STRENGTH)
    pictures = pictures.model_copy(update={"adapter": of_pictures})
    operation = job.plan.operation.model_copy(update={"pictures": pictures})
    plan = job.plan.model_copy(update={"operation": operation})
    return job.model_copy(update={"plan": plan, "picture_adapter": str(adapter)})


def pixels(image: Path | Image.Image) -> Any:
    return np.asarray(Image.open(image) if isinstance(image, Path) else image, dtype=np.int64)


def generated(
    case: Case,
    adapter: Path | None,
    tiny: Path,
    file: Path,
    *,
    transformer: Path | None = None,
    **changed: Any,
) -> Any:
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
        text_cache=case.text_cache,
        compute="bf16" if case.is_bf16 else "fp32",
        sampler=case.sampler,
        shift=case.shift,
        device="cpu",
    )
    request = ImageRequest(prompt="a red boat on a lake", file=file)
    generate(
        tiny,
        adapter,
        [request],
        replace(options, **changed),
        lambda _: None,
        transformer=transformer,
    )
    return pixels(file)


_SCHEDULERS: Final[dict[Sampler, Callable[[float], Any]]] = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "lcm": lambda shift: FlowMatchLCMScheduler(shift=shift),
    "unipc": lambda shift: UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    ),
}


def merged(case: Case, adapter: Path, tiny: Path, folder: Path) -> Path:
    merge_folder(
        tiny,
        adapter,
        folder,
        dtype=torch.float32,
        multiplier=case.strength,
        on_module=lambda *_: None,
    )
    return folder


def of_the_pipeline(case: Case, folder: Path, tiny: Path) -> Any:
    """What diffusers' pipeline makes of the transformer in ``folder``."""
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


def assert_alike(found: Any, picture: Any, *, at_least: float = 0.999) -> None:
    """``at_least``: the share of equal pixels."""
    off = np.abs(found - picture)
    assert off.max() <= 2
    assert (off.max(axis=-1) == 0).mean() >= at_least


@pytest.mark.parametrize("name", ["lokr", "lora", pytest.param(FOUR, marks=pytest.mark.deep)])
def test_a_picture_is_what_generate_and_diffusers_make_of_the_checkpoint(
    name: str, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    made = painted(case, tiny_folder, shards, tmp_path / "run")
    picture = pixels(made.picture)

    assert np.array_equal(generated(case, made.adapter, tiny_folder, tmp_path / "own.png"), picture)
    folder = merged(case, made.adapter, tiny_folder, tmp_path / "merged")
    assert_alike(of_the_pipeline(case, folder, tiny_folder), picture)
    of = partial(generated, case, made.adapter, tiny_folder, tmp_path / "other.png")
    assert not np.array_equal(of(multiplier=0.0), picture)
    in_result = of(multiplier=1.0, sampler=None, shift=None)
    assert np.array_equal(in_result, pixels(made.folder / "result/samples/0.png"))


@pytest.mark.parametrize("name", [pytest.param("lokr", marks=pytest.mark.deep), "lora"])
def test_generate_makes_the_same_picture_in_bf16(
    name: str, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """With a text cache in 8 bits. A CPU multiplies bf16 slowly, so the picture is small."""
    case = replace(
        CASES[name], is_bf16=True, text_cache="fp8", size_px=(32, 16), steps=1, guidance=1.0
    )
    made = painted(case, tiny_folder, shards, tmp_path / "run")

    own = generated(case, made.adapter, tiny_folder, tmp_path / "own.png")
    assert np.array_equal(own, pixels(made.picture))


def test_so_it_is_where_all_weights_are_trained(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    none = dict.fromkeys(("lora_type", "lora_rank", "lora_dropout"))
    full = {**none, "model_type": "full", "learning_rate": 1e-2}
    case = Case(sampler="unipc", strength=1.0, shift=3.0, rescale=0.7, steps=2, options=full)
    made = painted(case, tiny_folder, shards, tmp_path / "run")
    picture = pixels(made.picture)

    exported = export_checkpoint(
        made.checkpoint,
        step=None,
        weights=None,
        base=str(tiny_folder),
        output=tmp_path / "exported",
        overwrite=False,
        env={},
        reporter=SilentReporter(),
    )
    of = partial(generated, case, None, tiny_folder, tmp_path / "own.png")
    assert np.array_equal(of(transformer=exported.path), picture)
    assert not np.array_equal(of(), picture)


def test_a_further_adapter_acts_in_pictures_alone(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """generate has one adapter: the other one is merged into its transformer, which rounds."""
    small: dict[str, Any] = {"size_px": (64, 32), "steps": 2, "guidance": 1.0, "sampler": "euler"}
    model = load_transformer(tiny_folder, torch.float32)
    further = EXAMPLES["lokr-mixed"](model).write(tmp_path / "further")
    case = replace(CASES["lora"], **small)
    case = replace(case, options={**case.options, "disable_benchmark": False})
    alone = painted(case, tiny_folder, shards, tmp_path / "alone")

    made = painted(case, tiny_folder, shards, tmp_path / "run", further=further)

    states = [(each.checkpoint / "state.safetensors").read_bytes() for each in (made, alone)]
    assert states[0] == states[1]
    with Image.open(made.picture) as image:
        sha256 = hashlib.sha256(further.read_bytes()).hexdigest()
        assert png_text(image)["further_adapter_sha256"] == sha256
    of = partial(
        generated,
        case,
        further,
        tiny_folder,
        tmp_path / "own.png",
        multiplier=FURTHER_STRENGTH,
    )
    base = pixels(made.base_picture)
    assert np.array_equal(of(), base)
    assert not np.array_equal(base, pixels(alone.base_picture))
    folder = merged(case, made.adapter, tiny_folder, tmp_path / "merged")
    both = pixels(made.picture)
    assert_alike(of(transformer=folder), both, at_least=0.99)
    for other in (base, pixels(alone.picture)):
        assert np.abs(both - other).max() > 2
