"""What is wrong with a request. All problems are reported at once."""

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
    """One thing wrong with a request."""

    pointer: str
    """JSON Pointer (RFC 6901) into the request, such as ``/data_backends/0/crop``."""
    code: ProblemCode
    message: str


class PlanError(TrainerError):
    """The request has problems, so there is no plan.

    ``problems`` lists all of them, ``warnings`` what was found besides.
    """

    code = "invalid_plan"
    category: Category = Category.USER

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[str] = ()) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.message}" for p in problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
