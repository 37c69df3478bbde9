"""A configuration of DeepSpeed, and the options that agree with it."""

from typing import Any

FULL: dict[str, Any] = {
    "model_type": "full",
    "optimizer": "torch-adamw",
    "learning_rate": 1e-4,
    "max_grad_norm": 1.0,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_processes": 8,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 3,
    "mixed_precision": "bf16",
}
AGREEING: dict[str, Any] = {
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "offload_param": {"device": "none"},
        "offload_optimizer": {"device": "none", "pin_memory": True},
    },
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0,
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": "2",
    "bf16": {"enabled": True},
    "fp16": {"enabled": False, "loss_scale": 0},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": "auto"},
    },
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 1e-4, "warmup_num_steps": 3},
    },
    "steps_per_print": 100,
}


def full(config: Any, **more: Any) -> dict[str, Any]:
    return {**FULL, "deepspeed_config": config, **more}
