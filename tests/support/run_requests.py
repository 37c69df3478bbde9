"""Requests for runs, right ones and wrong ones."""

from collections.abc import Iterator
from typing import Any

from tests.support.service import run_request
from tests.support.tenant import Json

OPTIONS: list[Json] = [
    {},
    {"max_train_steps": 0},
    {"max_train_steps": 0, "num_train_epochs": 2},
    {"max_train_steps": 5, "num_train_epochs": 2},
    {"max_train_steps": "10"},
    {"max_train_steps": "many"},
    {"learning_rate": "1e-4"},
    {"learning_rate": -1},
    {"optimizer": "optimi-adamw"},
    {"optimizer": "lion"},
    {"optimzer": "optimi-lion"},
    {"lr_scheduler": "cosine", "lr_warmup_steps": 5},
    {"lr_scheduler": "sine"},
    {"train_batch_size": 4, "gradient_accumulation_steps": 2},
    {"train_batch_size": 0},
    {"resolution": 100_000},
    {"resolution": 64},
    {"model_family": "flux"},
    {"model_type": "full"},
    {"lora_type": "standard", "lora_rank": 8},
    {"lora_type": "standard", "lora_rank": 0},
    {"mixed_precision": "fp32"},
    {"mixed_precision": "fp16"},
    {"base_model_precision": "nf4-bnb"},
    {"base_model_precision": "no_change"},
    {"gradient_checkpointing": "perhaps"},
    {"checkpoints_total_limit": 0},
    {"pretrained_model_name_or_path": "../elsewhere"},
    {"pretrained_model_name_or_path": "no-such-model"},
    {"output_dir": "/etc"},
    {"seed": -1},
    {"seed": 7},
    {"use_ema": True},
    {"push_to_hub": True, "hub_model_id": "ada/cats"},
    {"device": "cpu"},
    {"caption_dropout_probability": 2},
    {"report_to": "wandb"},
    {"deterministic": True},
    {"--max_train_steps": 3},
]


def run_requests(datasets: dict[str, str], rejected: str) -> Iterator[Any]:
    """Requests of all kinds, right ones and wrong ones."""
    for options in OPTIONS:
        yield run_request(datasets, **options)
    right = run_request(datasets)
    yield {**right, "datasets": {}}
    yield {**right, "datasets": {"photos": datasets["photos"]}}
    yield {**right, "datasets": {**datasets, "pets": datasets["photos"]}}
    yield {**right, "datasets": {"photos": "ds_" + "0" * 32, "held-out": "cats"}}
    yield {**right, "datasets": {"photos": rejected, "held-out": rejected}}
    yield {**run_request(datasets, seed="x"), "datasets": {"photos": rejected}}
    yield {**right, "lycoris_config": None}
    yield {**right, "lycoris_config": {"algo": "loha"}}
    yield {**right, "data_backends": []}
    yield {**right, "data_backends": [{"id": "photos"}]}
    yield {**right, "priority": "high", "metadata": {"a": "b"}}
    yield {**right, "priority": "urgent"}
    yield {**right, "metadata": {str(n): "" for n in range(17)}}
    yield {**right, "surprise": 1}
    yield {**right, "config": []}
    yield {"config": {}, "datasets": {}}
