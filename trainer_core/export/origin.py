"""The metadata of an adapter file about its training. Imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal

ADAPTER_NAME: Final = "pytorch_lora_weights.safetensors"

Weights = Literal["trained", "ema"]
"""The trained values, or their running mean (EMA)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The training that one adapter file comes from."""

    base_model: str
    step: int
    """Number of optimizer steps that the adapter was trained for."""
    weights: Weights

    def as_metadata(self, *, modules: int) -> dict[str, str]:
        """Metadata of a safetensors file; with ``modules`` a reader can detect missing ones."""
        return {
            "format": "pt",
            "base_model": self.base_model,
            "step": str(self.step),
            "weights": self.weights,
            "modules": str(modules),
        }
