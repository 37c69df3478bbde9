"""The processes that write or read a checkpoint together. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRanks:
    """This process among them. All call the same functions in the same order."""

    rank: int
    """Number of this process, from 0."""
    count: int
    exchange: Callable[[bytes], list[bytes]]
    """Takes what this process tells, and returns what each tells, in the order of the ranks."""

    def first_text(self, text: str) -> str:
        """The first text that is not empty, of those that the processes pass; else an empty one."""
        told = [body.decode() for body in self.exchange(text.encode())]
        return next(filter(None, told), "")


ALONE: Final = CheckpointRanks(rank=0, count=1, exchange=lambda body: [body])
"""One process."""
