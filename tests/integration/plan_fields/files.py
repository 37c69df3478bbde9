"""The configuration files that every check starts from, and how a check changes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

RATE: Final = 0.01

CONFIG: Final[Mapping[str, Any]] = {
    "model_family": "hidream",
    "model_type": "lora",
    "lora_type": "lycoris",
    "pretrained_model_name_or_path": "hidream-tiny",
    "seed": 42,
    "device": "cpu",
    "mixed_precision": "no",
    "resolution": 64,
    "max_train_steps": 3,
    "train_batch_size": 1,
    "optimizer": "torch-adamw",
    "learning_rate": RATE,
    "adam_weight_decay": 0,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "max_grad_norm": 0,
    "caption_dropout_probability": 0,
    "flow_schedule_shift": 0,
    "gradient_checkpointing": False,
    "use_ema": True,
    "ema_decay": 0.2,
    "checkpoint_step_interval": 1,
    "validation_prompt": "a green dog",
    "validation_negative_prompt": "blurry",
    "validation_num_inference_steps": 2,
    "validation_guidance": 3.0,
    "validation_guidance_rescale": 0.6,
    "validation_resolution": "64x128",
    "validation_seed": 7,
    "output_dir": "out",
}
LYCORIS: Final[Mapping[str, Any]] = {
    "algo": "lokr",
    "full_matrix": True,
    "factor": 4,
    "use_scalar": False,
    "apply_preset": {"target_module": ["Attention"]},
}
CATS: Final[Mapping[str, Any]] = {
    "id": "cats",
    "type": "local",
    "instance_data_dir": "cats",
    "caption_strategy": "textfile",
}
DOGS: Final[Mapping[str, Any]] = {**CATS, "id": "dogs", "instance_data_dir": "dogs"}
MASKS: Final[Mapping[str, Any]] = {
    "id": "masks",
    "type": "local",
    "dataset_type": "conditioning",
    "conditioning_type": "mask",
    "instance_data_dir": "masks",
}
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "black_cat": (96, 96),
    "red_cat": (126, 100),
    "tall_cat": (48, 144),
    "white_cat": (128, 128),
}
"""Width and height of the images of ``cats``. All but the tall one get square buckets at 64 px."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The entries that differ from the files above."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """None removes an entry."""
    lycoris: Mapping[str, Any] = field(default_factory=dict)
    cats: Mapping[str, Any] = field(default_factory=dict)
    others: Sequence[Mapping[str, Any]] = ()
    """Further backends."""
    prompts: Mapping[str, Any] | None = None
    """The prompt library."""
    init_lora: "Files | None" = None
    """The run whose adapter this one starts from."""
