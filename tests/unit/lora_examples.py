"""A LoRA of the plan for small models."""

from trainer_core.config.plan import LoraAdapter


def lora(*paths: str, **changes: object) -> LoraAdapter:
    """Rank 4 and alpha 6, without dropout."""
    fields: dict[str, object] = {"rank": 4, "alpha": 6.0, "dropout": 0.0, "init": "default"}
    return LoraAdapter.model_validate({**fields, "modules": paths, **changes})
