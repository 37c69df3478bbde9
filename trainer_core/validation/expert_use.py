"""How often each expert is chosen, layer by layer: one that is never chosen learns nothing.

Letters: L layers with experts, E experts of a layer, N tokens, K experts chosen for a token.
"""

from collections.abc import Sequence
from typing import Final

import torch

_DIGITS: Final = 4


class ExpertUse:
    """Counts the choices of the forwards of a measurement."""

    def __init__(self, experts: int) -> None:
        """``experts``: of each layer."""
        self._experts = experts
        self._noted: list[torch.Tensor] = []
        self._kept = torch.zeros(0)

    def begin(self) -> None:
        """Forget what was noted and not kept: a forward begins, for the first time or again."""
        self._noted = []

    def note(self, chosen_NK: torch.Tensor) -> None:
        """Count the choices of one layer; a forward calls it for its layers in order."""
        self._noted.append(torch.bincount(chosen_NK.flatten(), minlength=self._experts))

    def keep(self) -> None:
        """Let the forward that is over count."""
        self._kept = self.counts() + self._latest()

    def counts(self) -> torch.Tensor:
        """Of the forwards that count, [L, E], fp64 on the CPU; L is 0 without such layers.

        A process whose forwards do not count has zeros, after its first forward.
        """
        return self._kept if len(self._kept) else torch.zeros_like(self._latest())

    def _latest(self) -> torch.Tensor:
        if not self._noted:
            return torch.zeros(0, self._experts, dtype=torch.float64)
        return torch.stack(self._noted).double().cpu()


def shares_of(counts_LE: torch.Tensor) -> Sequence[Sequence[float]]:
    """Of each layer, the share of the choices that went to each expert."""
    shares = counts_LE / counts_LE.sum(dim=1, keepdim=True)
    return [[round(share, _DIGITS) for share in layer] for layer in shares.tolist()]
