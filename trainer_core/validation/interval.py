"""The confidence interval of a mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from pydantic import JsonValue

_COVERAGE: Final = 0.95
_HALVINGS: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float | None
    """None for a single value, and for values that are not finite."""
    high: float | None

    def as_json(self) -> dict[str, JsonValue]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of n independent values, and mean ± t · s / √n.

    s is their standard deviation with n - 1 in its denominator, and t the 97.5 % quantile of
    Student's distribution with n - 1 degrees of freedom: of repeated measurements with other
    values of the same population 95 % cover its mean, exactly so for a normal one.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2 or not math.isfinite(mean):
        return Mean(mean=mean, low=None, high=None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_t(count - 1) * math.sqrt(variance / count)
    return Mean(mean=mean, low=mean - half, high=mean + half)


@cache
def student_t(degrees: int) -> float:
    """The t with P(|T| < t) = 0.95 for Student's T with so many degrees of freedom, at least 1."""
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t / √degrees
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _within(middle, degrees) < _COVERAGE:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """P(|T| < √degrees · tan(angle)); Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    cosine = math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    terms = [] if degrees == 1 else [term]
    for number in range(2 if is_odd else 1, degrees - 2, 2):
        term *= number / (number + 1) * cosine**2
        terms.append(term)
    total = math.sin(angle) * math.fsum(terms)
    return 2 / math.pi * (angle + total) if is_odd else total
