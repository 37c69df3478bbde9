"""What options do here that is not obvious, in three groups."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from services.cli import output
from trainer_core.config.plan.problems import Effect, Notice, num_options, texts_of

if TYPE_CHECKING:
    from services.client.shapes import Notices

EveryNotice = Annotated[
    bool,
    typer.Option("--all", help="Also name the options that have no effect or are taken care of."),
]
_TITLES: Final[dict[Effect, str]] = {
    "differs": "will act differently",
    "no_effect": "has no effect here",
    "handled": "taken care of",
}


def grouped(notices: Iterable[dict[str, Any]]) -> dict[Effect, list[dict[str, Any]]]:
    """The notices of each group, as the API shows them."""
    groups: dict[Effect, list[dict[str, Any]]] = {effect: [] for effect in get_args(Effect)}
    for each in notices:
        groups[each["effect"]].append(
            {
                "option": each["option"],
                "pointers": list(each["pointers"]),
                "data_backends": list(each["backends"]),
                "message": each["message"],
            }
        )
    return groups


def ungrouped(notices: "Notices") -> list[Notice]:
    """The notices of an answer of the API."""
    groups: dict[Effect, Any] = {
        "differs": notices["differs"],
        "no_effect": notices["no_effect"],
        "handled": notices["handled"],
    }
    return [
        Notice(
            effect=effect,
            option=each["option"],
            pointers=tuple(each["pointers"]),
            backends=tuple(each["data_backends"]),
            message=each["message"],
        )
        for effect, group in groups.items()
        for each in group
    ]


def print_notices(notices: Sequence[Notice], *, every: bool) -> None:
    """The first group in full; the others as a count, or with ``every`` in full, too."""
    for effect, title in _TITLES.items():
        lines = texts_of(notices, effect)
        if not lines:
            continue
        if effect == "differs" or every:
            output.print_note(f"{title}:")
            for line in lines:
                output.print_note(f"  {line}")
        else:
            count = num_options(notices, effect)
            output.print_note(f"{title}: {count} option{'s' * (count > 1)}; --all names them")
