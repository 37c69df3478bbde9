"""Backends whose pictures were fetched, written as local ones that read the same files."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import JsonValue

from trainer_core.config.plan.problems import Problem
from trainer_core.config.simpletuner.backends import backends_of
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import (
    Findings,
    option_name,
    read_options,
    text_of,
    written_value,
)
from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.config.simpletuner.sources import SOURCE_KEYS, RowStrategy

_ANY_AREA_PX: Final = 1 << 40
_STRATEGY: Final = "caption_strategy"


def sources_of(
    config: Mapping[str, JsonValue], data_backends: Sequence[JsonValue]
) -> Mapping[str, PictureSource]:
    """Backend id → what its pictures are fetched from, of those that are not local.

    A backend with problems is left out: resolving the plan reports them.
    """
    options = read_options(config, OPTIONS, "/config", Findings(), "local")
    return backends_of(data_backends, options, _ANY_AREA_PX).sources


def as_local(
    data_backends: Sequence[JsonValue], fetched: Mapping[str, PictureSource]
) -> list[JsonValue]:
    """The backends with local ones in place of those that were fetched.

    Their captions are text files then, unless they are names or one prompt.
    """
    return [
        _local(item, source)
        if isinstance(item, dict) and (source := fetched.get(_id_in(item) or "")) is not None
        else item
        for item in data_backends
    ]


def _local(item: Mapping[str, JsonValue], source: PictureSource) -> dict[str, JsonValue]:
    kept: dict[str, Any] = {
        key: value
        for key, value in item.items()
        if option_name(key) not in SOURCE_KEYS and option_name(key) != "metadata_backend"
    }
    written = next((key for key in kept if option_name(key) == _STRATEGY), _STRATEGY)
    if source.wants_captions or kept.get(written) in get_args(RowStrategy):
        kept[written] = "textfile"
    return {**kept, "type": "local"}


def _id_in(item: Mapping[str, JsonValue]) -> str | None:
    return text_of(written_value(item, "id"))


def check_backend(
    config: Mapping[str, JsonValue], data_backends: Sequence[JsonValue], id_: str
) -> list[str]:
    """What is wrong with one backend, each a line; also that there is none of this id."""
    if _place_of(data_backends, id_) is None:
        known = [_id_in(item) or "" for item in data_backends if isinstance(item, dict)]
        return [f"there is no data backend {id_}; there are: {', '.join(filter(None, known))}"]
    found = problems_of_backend(config, data_backends, id_)
    return [f"{each.pointer}: {each.message}" for each in found]


def problems_of_backend(
    config: Mapping[str, JsonValue], data_backends: Sequence[JsonValue], id_: str
) -> list[Problem]:
    """What is wrong with one backend of a list that has it."""
    findings = Findings()
    options = read_options(config, OPTIONS, "/config", findings, "local")
    findings.problems.clear()  # of options that change nothing about what is fetched
    backends_of(data_backends, options, _ANY_AREA_PX)
    own = f"/data_backends/{_place_of(data_backends, id_)}/"
    return [each for each in findings.problems if each.pointer.startswith(own)]


def _place_of(data_backends: Sequence[JsonValue], id_: str) -> int | None:
    return next(
        (
            position
            for position, item in enumerate(data_backends)
            if isinstance(item, dict) and _id_in(item) == id_
        ),
        None,
    )
