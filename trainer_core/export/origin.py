"""The metadata of trained weights about their training. Imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal

from trainer_core.config.plan import Identity

ADAPTER_NAME: Final = "pytorch_lora_weights.safetensors"
LIVE_FOLDER: Final = "live"
"""In a checkpoint of a run with a running mean: the folder with the adapter of the last step."""

BASE_MODEL: Final = "base_model"
"""Key of the metadata, and of a checkpoint's scalars: the name of the base model."""

Weights = Literal["live", "ema"]
"""The values of the last step, or their running mean (EMA)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The training that a file of weights comes from."""

    base_model: str
    step: int
    """Number of optimizer steps that the weights were trained for."""
    weights: Weights

    def as_metadata(self, *, modules: int | None = None) -> dict[str, str]:
        """Metadata of a safetensors file.

        ``modules``: how many an adapter has, so that a reader can detect missing ones.
        """
        counted = {} if modules is None else {"modules": str(modules)}
        return {
            "format": "pt",
            BASE_MODEL: self.base_model,
            "step": str(self.step),
            "weights": self.weights,
            **counted,
        }


def weights_of_result(identity: Identity) -> Weights:
    """The weights that the result of a run has: the mean, where the run keeps one."""
    return "live" if identity.ema is None else "ema"
