"""How the micro-batches of several data backends are mixed in an epoch.

As in SimpleTuner, each micro-batch is of one backend, which is drawn with a probability
proportional to its weight. A backend whose micro-batches are all drawn is drawn no more until the
epoch ends. So an epoch has every micro-batch of every backend once.

Here the backend of a position is computed from the position alone. Let backend b have n_b
micro-batches and weight w_b. Draws by weight use it up at about the time T_b = n_b / w_b, if in a
unit of time the pool yields w micro-batches of a backend of weight w. The times T cut the epoch
into phases in which the pool stays the same. Up to the end of a phase at time T, backend b has
contributed min(n_b, ⌊w_b · T⌋) micro-batches, and within the phase the order is a keyed
permutation.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import lcm

from trainer_core.data.permutation import permuted


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a backend contributes to an epoch."""

    micro_batches: int
    """At least 1."""
    weight: Fraction
    """Above 0; only the ratios of the weights matter."""


@dataclass(frozen=True, slots=True)
class _Phase:
    """Positions of an epoch at which the same backends are in the pool."""

    before: tuple[int, ...]
    """For each backend, its micro-batches in the phases before."""
    ends: tuple[int, ...]
    """Running total over the backends of their micro-batches in this phase."""


class Mix:
    """The arrangement of an epoch."""

    def __init__(self, shares: Sequence[Share]) -> None:
        """``shares``: at least one; the arrangement depends on their order."""
        self._phases = tuple(_phases_of(shares))
        self._firsts = [sum(phase.before) for phase in self._phases]
        self.micro_batches = sum(share.micro_batches for share in shares)

    def place_of(self, position: int, key: Callable[[int], bytes]) -> tuple[int, int]:
        """The share that a position of the epoch belongs to, and the number of its micro-batch.

        Args:
            position: counted from 0, below ``micro_batches``.
            key: number of a phase → the key of its permutation.
        """
        number = bisect_right(self._firsts, position) - 1
        phase = self._phases[number]
        slot = permuted(position - self._firsts[number], phase.ends[-1], key(number))
        which = bisect_right(phase.ends, slot)
        start = phase.ends[which - 1] if which else 0
        return which, phase.before[which] + slot - start

    def phases(self) -> tuple[tuple[int, ...], ...]:
        """For each phase, how many micro-batches each share has in it."""
        return tuple(
            tuple(end - start for start, end in zip((0, *phase.ends), phase.ends, strict=False))
            for phase in self._phases
        )


def _phases_of(shares: Sequence[Share]) -> list[_Phase]:
    unit = lcm(*(share.weight.denominator for share in shares))
    weights = [int(share.weight * unit) for share in shares]
    counts = [share.micro_batches for share in shares]
    used_up = [Fraction(n, w) for n, w in zip(counts, weights, strict=True)]
    phases: list[_Phase] = []
    before = [0] * len(shares)
    for time in sorted(set(used_up)):
        after = [
            n if end <= time else w * time.numerator // time.denominator
            for n, w, end in zip(counts, weights, used_up, strict=True)
        ]
        ends = tuple(accumulate(b - a for a, b in zip(before, after, strict=True)))
        if ends[-1]:
            phases.append(_Phase(before=tuple(before), ends=ends))
        before = after
    return phases
