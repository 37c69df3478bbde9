"""What an adapter file says about where it comes from. Imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal

ADAPTER_NAME: Final = "pytorch_lora_weights.safetensors"

Weights = Literal["trained", "ema"]
"""The trained values themselves, or their running mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Of one file."""

    base_model: str
    step: int
    """Optimizer steps that it was trained for."""
    weights: Weights

    def as_metadata(self, *, modules: int) -> dict[str, str]:
        """For the header of a safetensors file; ``modules`` lets a reader notice a loss."""
        return {
            "format": "pt",
            "base_model": self.base_model,
            "step": str(self.step),
            "weights": self.weights,
            "modules": str(modules),
        }
