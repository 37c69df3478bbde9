"""Notices about the options of a run: bounded, as stored, and as shown."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final, get_args

from services.api.runs.shapes import Notice as NoticeShape
from services.api.runs.shapes import Notices
from trainer_core.config.plan.problems import Effect, Notice, texts_of

_MAX_NOTICES: Final = 200
_MAX_PLACES: Final = 100
_OPTION_CHARACTERS: Final = 100
_MESSAGE_CHARACTERS: Final = 500


def bounded(notices: Sequence[Notice]) -> list[Notice]:
    """The first notices, cut to a length: they are part of every answer that shows the run."""
    return [
        replace(
            each,
            option=_cut(each.option, _OPTION_CHARACTERS),
            pointers=each.pointers[:_MAX_PLACES],
            backends=each.backends[:_MAX_PLACES],
            message=_cut(each.message, _MESSAGE_CHARACTERS),
        )
        for each in notices[:_MAX_NOTICES]
    ]


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}…"


def as_json(notices: Sequence[Notice]) -> list[dict[str, Any]]:
    """The notices as they are stored."""
    return [asdict(each) for each in notices]


def warnings_of(notices: Sequence[Notice]) -> list[str]:
    """What the run does differently, as text."""
    return texts_of(notices, "differs")


def notices_shape(notices: Sequence[dict[str, Any]]) -> Notices:
    """Stored notices in their three groups."""
    groups: dict[Effect, list[NoticeShape]] = {effect: [] for effect in get_args(Effect)}
    for each in notices:
        groups[each["effect"]].append(
            NoticeShape(
                option=each["option"],
                pointers=each["pointers"],
                data_backends=each["backends"],
                message=each["message"],
            )
        )
    return Notices(**groups)
