"""The options that `reverie configure` writes, as functions of answers, pictures and card.

Sources: SimpleTuner's guide to HiDream (learning rates, factor, shift, text encoders in 8 bits).
How long to train is a rule of thumb.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from services.cli.configure_answers import Adapter, Answers, Goal
from services.cli.configure_captions import Captions, sample_prompt
from services.cli.configure_card import EDGES_PX, Draft, Trial, plan_of
from services.cli.configure_layout import BACKENDS, LYCORIS, Layout, file_from_root
from services.cli.configure_pictures import Picture
from trainer_core.config.plan import Plan
from trainer_core.data.buckets import bucket_size

MATMUL: Final = "base_model_matmul_precision"
AUTO_SHIFT: Final = "flow_schedule_auto_shift"
_MAX_PX: Final = EDGES_PX[0] ** 2
_LARGE_SHARE: Final = 2 / 3
"""Of the pictures that have to be as large as the resolution; the others are enlarged."""
_SMALL_SHARE: Final = 1 / 4
"""At most so many pictures are left out because they are small."""
_MANY: Final = 200
"""From so many pictures on, and for a concept, the adapter is larger."""
_BATCHED: Final = 100
"""From so many pictures on a batch may have several."""
_ATTENTION: Final = ("to_q", "to_k", "to_v", "to_out", "to_q_t", "to_k_t", "to_v_t", "to_out_t")
_CHECKPOINTS: Final = 8
"""In a run, about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """How long a goal is trained, in samples."""

    each: int
    """Samples of each picture."""
    least: int
    most: int


LENGTHS: Final[Mapping[Goal, Length]] = MappingProxyType(
    {
        "subject": Length(each=100, least=800, most=4000),
        "style": Length(each=60, least=1500, most=12_000),
        "concept": Length(each=80, least=1500, most=12_000),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSize:
    """The size of an adapter, and the learning rate that suits it."""

    number: int
    """LoKr's factor, or LoRA's rank."""
    optimizer: str
    rate: float


_USUAL: Final[Mapping[Adapter, AdapterSize]] = MappingProxyType(
    {
        "lokr": AdapterSize(number=16, optimizer="optimi-lion", rate=2e-5),
        "lora": AdapterSize(number=16, optimizer="optimi-adamw", rate=2e-4),
    }
)
_LARGER: Final[Mapping[Adapter, AdapterSize]] = MappingProxyType(
    {
        "lokr": AdapterSize(number=8, optimizer="optimi-lion", rate=2e-5),
        "lora": AdapterSize(number=32, optimizer="optimi-adamw", rate=1e-4),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """Everything that is decided before the card is looked at."""

    answers: Answers
    captions: Captions
    layout: Layout

    @property
    def adapter(self) -> AdapterSize:
        return (_LARGER if self.is_large else _USUAL)[self.answers.adapter]

    @property
    def is_large(self) -> bool:
        """Whether there is more to learn than a few pictures of one thing."""
        return self.answers.goal == "concept" or len(self.captions.pictures) >= _MANY

    @property
    def may_batch(self) -> bool:
        return self.answers.goal != "subject" and len(self.captions.pictures) >= _BATCHED

    @property
    def wanted_px(self) -> int:
        """The largest resolution that most of the pictures have; the smallest where none is."""
        pictures = self.captions.pictures
        for edge_px in EDGES_PX:
            large = sum(picture.edge_px >= edge_px for picture in pictures)
            if large >= _LARGE_SHARE * len(pictures):
                return edge_px
        return EDGES_PX[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """The pictures of a run at one resolution."""

    minimum_px: int
    """Pictures of a smaller area than the square of this edge are left out; 0: none is."""
    pictures: tuple[Picture, ...]

    @classmethod
    def at(cls, pictures: Sequence[Picture], edge_px: int) -> Self:
        """Those below half the resolution are left out where they are few."""
        small = sum(picture.edge_px < edge_px // 2 for picture in pictures)
        minimum_px = edge_px // 2 if 0 < small <= _SMALL_SHARE * len(pictures) else 0
        kept = tuple(picture for picture in pictures if picture.edge_px >= minimum_px)
        return cls(minimum_px=minimum_px, pictures=kept)


def trial_of(basis: Basis, draft: Draft) -> Trial:
    """The plan of a draft, with all that its memory depends on."""
    config = {
        **base_options(draft),
        **adapter_options(basis),
        **size_options(basis, draft),
        **step_options(basis, draft),
        **rate_options(basis, draft),
    }
    lycoris = lycoris_config(basis.adapter) if basis.answers.adapter == "lokr" else None
    plan = plan_of(config, lycoris, basis.layout.data_backends)
    pictures = Sized.at(basis.captions.pictures, draft.edge_px).pictures
    return Trial(draft=draft, plan=plan, buckets=_buckets(pictures, plan))


def _buckets(pictures: Sequence[Picture], plan: Plan) -> Counter[tuple[int, int]]:
    backend = plan.identity.backends[0]
    return Counter(
        # Nothing is cut, so that no bucket depends on a digest.
        bucket_size(each.width_px, each.height_px, backend, _MAX_PX, sha256="")
        for each in pictures
    )


def base_options(draft: Draft) -> dict[str, Any]:
    """The base model and its precision."""
    options: dict[str, Any] = {
        "model_family": "hidream",
        "model_flavour": "full",
        "model_type": "lora",
        "mixed_precision": "bf16",
    }
    if draft.precision == "bf16":
        return options | {"base_model_precision": "no_change"}
    options |= {
        "base_model_precision": "int8-quanto",
        "text_encoder_3_precision": "int8-quanto",
        "text_encoder_4_precision": "int8-quanto",
        "quantize_via": "cpu",
        "offload_during_startup": True,
    }
    return options if draft.precision == "int8" else options | {MATMUL: "int8"}


def adapter_options(basis: Basis) -> dict[str, Any]:
    """The adapter; LoKr has a file of its own, which ``lycoris_config`` gives."""
    if basis.answers.adapter == "lokr":
        return {"lora_type": "lycoris", "lycoris_config": _file(basis, LYCORIS)}
    rank = basis.adapter.number
    return {
        "lora_type": "standard",
        "lora_rank": rank,
        "lora_alpha": rank,
        # By itself SimpleTuner adapts 144 of the 256 projections of HiDream's attention.
        "peft_lora_target_modules": list(_ATTENTION),
    }


def lycoris_config(size: AdapterSize) -> dict[str, Any]:
    """LoKr on the attention, in the names of SimpleTuner's guide."""
    return {
        "algo": "lokr",
        "multiplier": 1.0,
        "linear_dim": 16384,
        "linear_alpha": 1,
        "full_matrix": True,
        "use_scalar": True,
        "factor": size.number,
        "apply_preset": {
            "target_module": ["Attention"],
            "module_algo_map": {"Attention": {"factor": size.number}},
        },
    }


def size_options(basis: Basis, draft: Draft) -> dict[str, Any]:
    """The data and its resolution."""
    return {
        "data_backend_config": _file(basis, BACKENDS),
        "resolution": draft.edge_px,
        "resolution_type": "pixel_area",
        "minimum_image_size": Sized.at(basis.captions.pictures, draft.edge_px).minimum_px,
        "vae_batch_size": 1,
    }


def step_options(basis: Basis, draft: Draft) -> dict[str, Any]:
    """Batch and number of steps."""
    return {
        "train_batch_size": draft.batch,
        "num_train_epochs": 0,
        "max_train_steps": steps_of(basis, draft),
        "gradient_checkpointing": True,
        "seed": 42,
    }


def steps_of(basis: Basis, draft: Draft) -> int:
    """Optimizer steps, in round numbers."""
    pictures = len(Sized.at(basis.captions.pictures, draft.edge_px).pictures)
    length = LENGTHS[basis.answers.goal]
    samples = min(max(pictures * length.each, length.least), length.most)
    return round(samples / draft.batch / 50) * 50


def rate_options(basis: Basis, draft: Draft) -> dict[str, Any]:
    """Optimizer, learning rate and clipping."""
    return {
        "optimizer": basis.adapter.optimizer,
        "learning_rate": basis.adapter.rate,
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": min(100, steps_of(basis, draft) // 10),
        "max_grad_norm": 1.0,
        "grad_clip_method": "norm",
    }


def shift_options(draft: Draft) -> dict[str, Any]:
    """Which noise levels are trained most."""
    if draft.edge_px == EDGES_PX[0]:
        return {"flow_schedule_shift": 3.0}
    return {AUTO_SHIFT: True}


def dropout_options(basis: Basis) -> dict[str, Any]:
    """How often a caption is left out."""
    shares_one = basis.captions.strategy == "instanceprompt"
    return {"caption_dropout_probability": 0.0 if shares_one else 0.1}


def saving_options(basis: Basis, draft: Draft) -> dict[str, Any]:
    """Checkpoints, and where they go."""
    return {
        "output_dir": f"output/{basis.layout.id}",
        "checkpoint_step_interval": _interval(basis, draft),
        "checkpoints_total_limit": 5,
        "resume_from_checkpoint": "latest",
    }


def _interval(basis: Basis, draft: Draft) -> int:
    """Steps between checkpoints."""
    return max(50, round(steps_of(basis, draft) / _CHECKPOINTS / 50) * 50)


def sample_options(basis: Basis, draft: Draft) -> dict[str, Any]:
    """The sample picture, which is also painted after each checkpoint."""
    answers = basis.answers
    return {
        "validation_step_interval": _interval(basis, draft),
        "validation_prompt": sample_prompt(basis.captions, answers.goal, answers.trigger_word),
        "validation_resolution": f"{draft.edge_px}x{draft.edge_px}",
        "validation_num_inference_steps": 30,
        "validation_guidance": 3.0,
        "validation_seed": 42,
    }


def _file(basis: Basis, name: str) -> str:
    return file_from_root(name, basis.answers.output)
