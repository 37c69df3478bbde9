"""The metadata of an adapter file about its training. Imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal

from trainer_core.config.plan import Identity

ADAPTER_NAME: Final = "pytorch_lora_weights.safetensors"

Weights = Literal["live", "ema"]
"""The values of the last step, or their running mean (EMA)."""


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


def weights_of_result(identity: Identity) -> Weights:
    """The weights that the result of a run has: the mean, where the run keeps one."""
    return "live" if identity.ema is None else "ema"
