"""Assertions that raise FieldIgnored, so that no other failure is mistaken for it."""

from typing import Any

import torch


class FieldIgnored(Exception):  # noqa: N818 - named for what happened to the field
    """The observed value is not the one that follows from the plan."""


def expect(observed: Any, expected: Any) -> None:
    """Raise FieldIgnored unless the two are equal; ``expected`` may be ``pytest.approx(…)``."""
    if observed != expected:
        raise FieldIgnored(f"observed {observed!r}, expected {expected!r}")


def expect_close(
    observed: torch.Tensor,
    expected: torch.Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """As ``torch.testing.assert_close``, with FieldIgnored; shapes and types must be equal too."""
    try:
        torch.testing.assert_close(observed, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise FieldIgnored(str(error)) from error
