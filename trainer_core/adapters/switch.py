"""What an adapter is told about a forward: on or off, how strong, and the dropout's seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class AdapterSwitch:
    """One object that all layers of an adapter read in their forward.

    diffusers' modules call their linear layers with a single tensor, so neither "adapter on or
    off" nor a seed can be passed as an argument. The switch is off only inside forwards without
    gradients, and seeds are set only beside fused blocks, which recompute no layer that reads them.
    Therefore gradient checkpointing never recomputes a layer with another setting than its first
    forward.
    """

    def __init__(self) -> None:
        self.is_on = True
        self.is_exported = False
        """Whether layers multiply constant factors where an exported file has them. Products of
        fp32 numbers round, so elsewhere an image could have other bits than one from the file."""
        self.strength = 1.0
        """What each delta is multiplied with; other than 1 only where ``is_exported``."""
        self.is_seeded = False
        """False: dropout draws from torch's global generator."""
        self.seed: torch.Tensor | None = None
        """Read while ``is_seeded``; None: nothing is dropped."""

    @contextmanager
    def seeded(self, seed: torch.Tensor | None) -> Iterator[None]:
        """Inside, a seed decides what dropout drops, and torch's generators are left alone.

        ``seed``: 0-dimensional, int64, on the device of the layers; None: nothing is dropped.
        """
        before = self.is_seeded, self.seed
        self.is_seeded, self.seed = True, seed
        try:
            yield
        finally:
            self.is_seeded, self.seed = before

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model computes the same as its base. May be nested."""
        before = self.is_on
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = before

    def placed(self, parameter: torch.Tensor) -> torch.Tensor:
        """A trained parameter as it is multiplied with: where ``is_exported``, a copy of its own.

        Products on a CPU may have other bits where a tensor does not start at a multiple of 64
        bytes, as one in a flat tensor may not, and one that is loaded does.
        """
        return parameter.clone() if self.is_exported else parameter

    @contextmanager
    def exported(self, strength: float) -> Iterator[None]:
        """Inside, the adapter acts as its exported file does with this strength.

        Its layers compute the same bits on a CPU. Fused blocks, which do not run them, take the
        strength alone.
        """
        before = self.is_exported, self.strength
        self.is_exported, self.strength = True, strength
        try:
            yield
        finally:
            self.is_exported, self.strength = before
