"""Data backends whose pictures the service can fetch itself: what is elsewhere, and public."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan.problems import Problem
from trainer_core.config.simpletuner.local_backends import problems_of_backend, sources_of
from trainer_core.config.simpletuner.other_backend_keys import is_secret
from trainer_core.config.simpletuner.reading import escaped, option_name, text_of, written_value
from trainer_core.config.simpletuner.source_types import (
    CsvSource,
    HubSource,
    PictureSource,
    TarSource,
    is_address,
    is_dataset,
)

_DEFAULT_ID: Final = "source"
_MAX_ID: Final = 128
_HERE: Final[dict[str, JsonValue]] = {"type": "local", "instance_data_dir": "."}
_DISABLED: Final = ("disabled", "disable")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteSource:
    """What a backend is fetched from, or why the service cannot fetch it."""

    source: PictureSource | None
    """None where there are problems."""
    problems: tuple[Problem, ...] = ()
    """Their pointers begin at the backend."""


def list_address(source: PictureSource) -> str | None:
    """The address of the source's list; None where it has none."""
    place = source.place
    return place.file if isinstance(place, CsvSource) and is_address(place.file) else None


def list_suffix(source: PictureSource) -> str:
    """The suffix that a file with the source's list needs: tabs separate columns in ``.tsv``."""
    name = source.place.file if isinstance(source.place, CsvSource) else ""
    return ".tsv" if name.partition("?")[0].lower().endswith(".tsv") else ".csv"


def has_list(source: PictureSource) -> bool:
    """Whether the source is a list of addresses."""
    return isinstance(source.place, CsvSource)


def remote_source(backend: Mapping[str, JsonValue], *, with_list: bool) -> RemoteSource:
    """Read a data backend by the option tables, and find out whether the service can fetch it.

    Args:
        backend: one object of multidatabackend.json; its ``id`` may be left out.
        with_list: the content of its list is sent beside it.
    """
    if secrets := _secrets_in(dict(backend)):
        return _refused(*(_about_secret(pointer) for pointer in secrets))
    given = {key: value for key, value in backend.items() if option_name(key) not in _DISABLED}
    if (id_ := _text(given, "id")) is None:
        id_ = _DEFAULT_ID
        given["id"] = id_
    if with_list and _text(given, "csv_file") is None:
        given["csv_file"] = "list.csv"
    if found := problems_of_backend({}, [given, *_partners(given, id_)], id_):
        return _refused(*(_in_backend(each) for each in found))
    source = sources_of({}, [given]).get(id_)
    if problem := _about_place(source, with_list=with_list):
        return _refused(problem)
    return RemoteSource(source=source)


def _about_place(source: PictureSource | None, *, with_list: bool) -> Problem | None:
    match None if source is None else source.place:
        case CsvSource(file=file):
            is_there = with_list or is_address(file)
            return _about_user("csv_file", file) if is_there else _about("csv_file", _ASK_FOR_LIST)
        case _ if with_list:
            return _about("type", "A list is sent beside it, which only type csv has.")
        case HubSource():
            return None
        case TarSource(source=tars, metadata=metadata):
            for option, value in (("source", tars), ("metadata", metadata)):
                if value is not None and not (is_address(value) or is_dataset(value)):
                    return _about(option, f"{option} {_ASK_FOR_TARS}")
            return _about_user("source", tars) or _about_user("metadata", metadata)
        case _:  # also of types that are fetched on a user's machine only
            return _about("type", _ASK_FOR_FILES)


def _about_user(option: str, value: str | None) -> Problem | None:
    """A password in an address would be stored, and no such address is read."""
    host = (value or "").partition("://")[2].partition("/")[0]
    if "@" not in host:
        return None
    return _about(
        option,
        f"{option} has a user or a password in its address: only what is public is imported.",
    )


_ASK_FOR_LIST: Final = (
    "csv_file has to be an address (https://…) here; or send the content of the list as csv, "
    "beside source."
)
_ASK_FOR_TARS: Final = (
    "has to be an address (https://…/{000..011}.tar) or a dataset of the Hub (owner/name) here. "
    "`reverie datasets push CONFIG --backend ID` reads tar files of your machine."
)
_ASK_FOR_FILES: Final = (
    "The service imports the types csv, huggingface, webshart and webdataset. Push a folder with "
    "`reverie datasets push DIR`, and what else a configuration names with `reverie datasets push "
    "CONFIG --backend ID`."
)


def _partners(backend: Mapping[str, JsonValue], id_: str) -> list[JsonValue]:
    """Backends that this one names, or that has to name it: those of its run, unknown here."""
    if _text(backend, "dataset_type") == "conditioning":
        images = _text(backend, "source_dataset_id") or f"images-of-{id_}"[:_MAX_ID]
        return [{**_HERE, "id": images, "conditioning_data": id_}]
    masks = written_value(backend, "conditioning_data")
    if isinstance(masks, list) and len(masks) == 1:
        masks = masks[0]
    if not masks or not isinstance(masks, str):
        return []
    return [{**_HERE, "id": masks, "dataset_type": "conditioning", "conditioning_type": "mask"}]


def _secrets_in(value: JsonValue, at: str = "") -> list[str]:
    """Pointers to the secrets of a backend, also to those in blocks of it such as ``aws``."""
    if isinstance(value, list):
        return [p for n, each in enumerate(value) for p in _secrets_in(each, f"{at}/{n}")]
    if not isinstance(value, dict):
        return []
    found: list[str] = []
    for key, each in value.items():
        pointer = f"{at}/{escaped(key)}"
        found += [pointer] if is_secret(key) else _secrets_in(each, pointer)
    return found


def _about_secret(pointer: str) -> Problem:
    message = (
        f"{option_name(pointer.rpartition('/')[2])} is a secret, and imports take none: only what "
        "is public is imported. `reverie datasets push CONFIG --backend ID` fetches it on your "
        "machine, with your token."
    )
    return Problem(pointer=pointer, code="refused", message=message)


def _about(option: str, message: str) -> Problem:
    return Problem(pointer=f"/{option}", code="refused", message=message)


def _refused(*problems: Problem) -> RemoteSource:
    return RemoteSource(source=None, problems=problems)


def _in_backend(problem: Problem) -> Problem:
    return replace(problem, pointer=problem.pointer.removeprefix("/data_backends/0"))


def _text(backend: Mapping[str, JsonValue], name: str) -> str | None:
    return text_of(written_value(backend, name))
