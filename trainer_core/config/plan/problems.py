"""The problems of a request, which are all reported at once, and notices about its options."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from trainer_core.errors import Category, TrainerError

_MAX_BACKENDS_NAMED: Final = 5

ProblemCode = Literal[
    "unknown_option",
    "not_implemented",
    "refused",
    "bad_value",
    "missing",
    "conflict",
    "no_modules",
    "empty_dataset",
    "mostly_unusable",
    "not_found",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One error in a request."""

    pointer: str
    """JSON Pointer (RFC 6901) into the request, such as ``/data_backends/0/crop``."""
    code: ProblemCode
    message: str


Effect = Literal["differs", "no_effect", "handled"]
"""What an option does here that its user may not expect.

- ``differs``: the run acts differently from what SimpleTuner would do.
- ``no_effect``: the option changes nothing in this run.
- ``handled``: something here does the work of the option by itself.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """One line about one option."""

    effect: Effect
    option: str
    """Its name as the user wrote it."""
    pointers: tuple[str, ...]
    """JSON Pointers to each place where it is, or would be."""
    backends: tuple[str, ...] = ()
    """Ids of the data backends that have it; empty for an option of another file."""
    message: str

    @property
    def text(self) -> str:
        """The notice as one line."""
        return f"{self.option}{in_brackets(self.backends)}: {self.message}"


def in_brackets(backends: Sequence[str]) -> str:
    """The first ids of data backends, after the name of their option."""
    if not backends:
        return ""
    left = len(backends) - _MAX_BACKENDS_NAMED
    more = f" and {left} more" if left > 0 else ""
    return f" ({', '.join(backends[:_MAX_BACKENDS_NAMED])}{more})"


def texts_of(notices: Iterable[Notice], effect: Effect) -> list[str]:
    """The lines of one group. Options with the same message share a line."""
    lines: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for notice in notices:
        if notice.effect == effect:
            lines.setdefault((notice.message, notice.backends), []).append(notice.option)
    return [
        f"{', '.join(dict.fromkeys(options))}{in_brackets(backends)}: {message}"
        for (message, backends), options in lines.items()
    ]


def num_options(notices: Iterable[Notice], effect: Effect) -> int:
    """How many options one group has; one may have several notices."""
    return len({notice.option for notice in notices if notice.effect == effect})


def summary_of(notices: Sequence[Notice]) -> list[str]:
    """What the run does differently, in full, and how many options each other group has."""
    counts = {
        "have no effect here": num_options(notices, "no_effect"),
        "are taken care of": num_options(notices, "handled"),
    }
    counted = [f"{count} {what}" for what, count in counts.items() if count]
    lines = texts_of(notices, "differs")
    if counted:
        lines.append(f"{' and '.join(counted)}; `reverie validate --all` names them.")
    return lines


class PlanError(TrainerError):
    """A request has problems, so no plan can be made.

    ``problems`` lists all of them; ``notices`` are about options that have none.
    """

    code = "invalid_plan"
    category: Category = Category.USER

    def __init__(self, problems: Sequence[Problem], notices: Sequence[Notice] = ()) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.message}" for p in problems))
        self.problems = tuple(problems)
        self.notices = tuple(notices)
