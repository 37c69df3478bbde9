"""Turns an adapter off for a forward."""

from collections.abc import Iterator
from contextlib import contextmanager


class AdapterSwitch:
    """One object that all layers of an adapter read in their forward.

    diffusers' blocks call their linear layers with a single tensor, so "adapter on or off" cannot
    be passed as an argument. The switch is off only inside forwards without gradients. Therefore
    gradient checkpointing never recomputes a block with another setting than its first forward.
    """

    def __init__(self) -> None:
        self.is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model computes the same as its base. May be nested."""
        before = self.is_on
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = before
