"""The problems of a request, which are all reported at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer_core.errors import Category, TrainerError

ProblemCode = Literal[
    "unknown_option",
    "not_implemented",
    "refused",
    "bad_value",
    "missing",
    "conflict",
    "no_modules",
    "empty_dataset",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One error in a request."""

    pointer: str
    """JSON Pointer (RFC 6901) into the request, such as ``/data_backends/0/crop``."""
    code: ProblemCode
    message: str


class PlanError(TrainerError):
    """A request has problems, so no plan can be made.

    ``problems`` lists all of them; ``warnings`` are further findings.
    """

    code = "invalid_plan"
    category: Category = Category.USER

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[str] = ()) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.message}" for p in problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
