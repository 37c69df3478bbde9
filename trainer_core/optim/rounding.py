"""Writes of an update to tensors in bf16, which are rounded stochastically.

A small update of a weight in bf16 would otherwise round to nothing, each time.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import torch

from trainer_core.kernels.stochastic_rounding import round_to_bf16

NUM_WORDS: Final = 4
"""Numbers of a step that ``Rounding.begin`` needs. Each has 16 bits, so fp32 holds it exactly."""


class Rounding:
    """Draws that are a function of the run's seed, the step, the parameter and the field."""

    def __init__(self, seed: int, names: Iterable[str], fields: Sequence[str]) -> None:
        """``names``: of the leaves. ``fields``: what is kept of each; the order has no effect."""
        self._seed = seed
        words = [[_keys(f"{name}/{field}") for field in fields] for name in names]
        self._streams = torch.tensor(words, dtype=torch.int32)
        self._keys = self._streams

    def to(self, device: torch.device) -> "Rounding":
        self._streams = self._streams.to(device)
        self._keys = torch.empty_like(self._streams)
        return self

    def words(self, step: int) -> tuple[float, ...]:
        """The numbers of optimizer step ``step`` for ``begin``."""
        digest = _digest(f"{self._seed} {step}")
        return tuple(float(int.from_bytes(digest[i : i + 2])) for i in range(0, 2 * NUM_WORDS, 2))

    def begin(self, words: torch.Tensor) -> None:
        """Set the keys of a step; ``words``: fp32, [4], on the device."""
        halves = words.to(torch.int32).view(2, 2)
        torch.bitwise_xor(self._streams, halves[:, 0] * (1 << 16) + halves[:, 1], out=self._keys)

    def write(
        self,
        new: torch.Tensor,
        old: torch.Tensor,
        is_written: torch.Tensor,
        *,
        leaf: int,
        field: int,
        start: int,
    ) -> None:
        """Round a piece of a leaf's field, and write it over ``old`` where the flag is True.

        ``start``: number of the first element of the piece.
        """
        round_to_bf16(new, old, self._keys[leaf, field], is_written, start)


def _keys(text: str) -> tuple[int, int]:
    """Two int32."""
    digest = _digest(text)
    first, second = (int.from_bytes(half, signed=True) for half in (digest[:4], digest[4:]))
    return first, second


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=2 * NUM_WORDS).digest()
