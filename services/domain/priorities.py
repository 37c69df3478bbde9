"""Priorities of runs: they order a tenant's own runs, never those of other tenants."""

from typing import Final, Literal

Priority = Literal["low", "normal", "high"]

_NUMBERS: Final[dict[Priority, int]] = {"low": -1, "normal": 0, "high": 1}


def number_of(priority: Priority) -> int:
    """As it is stored: a higher number goes first."""
    return _NUMBERS[priority]


def name_of(number: int) -> Priority:
    """The class of a stored priority."""
    names = {stored: name for name, stored in _NUMBERS.items()}
    return names[max(-1, min(1, number))]
