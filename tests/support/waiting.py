"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    ask: Callable[[], T | None],
    *,
    what: str | Callable[[], str],
    deadline_s: float = 60,
    every_s: float = 0.05,
) -> T:
    """Ask until the answer is truthy, and return it; fail at the deadline.

    ``what`` completes the failure's message, such as "the run to end". Give a function where the
    message needs the log of that moment; it is called at the deadline only.
    """
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if answer := ask():
            return answer
        time.sleep(every_s)
    named = what() if callable(what) else what
    raise AssertionError(f"waited {deadline_s:g} s for {named}")
