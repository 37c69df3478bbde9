"""Forked training processes measure the fixed validation loss of 4 samples, not of all 64.

In a run of three steps, 64 samples before and after training took four fifths of the time. A test
that looks at the losses of all samples sets the variable ``ALL_SAMPLES`` for its process.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tests.support.forked_training import ALL_SAMPLES
from trainer_core.validation import fixed_loss

FEW: Final = 4
"""Half of them are held-out images where there are any."""
_ALL: Final = fixed_loss.SAMPLES


@contextmanager
def few() -> Iterator[None]:
    """Inside, this process measures few samples too."""
    before = vars(fixed_loss)["SAMPLES"]
    vars(fixed_loss)["SAMPLES"] = FEW
    try:
        yield
    finally:
        vars(fixed_loss)["SAMPLES"] = before


def choose(env: Mapping[str, str]) -> None:
    """Set how many samples this process measures."""
    vars(fixed_loss)["SAMPLES"] = _ALL if ALL_SAMPLES in env else FEW
