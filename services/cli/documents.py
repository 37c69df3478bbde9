"""SimpleTuner's files, found the way people keep them, as the body of a submission."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.cli.connection import CommandError
from trainer_core.config.simpletuner.backends import holds_no_images
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import text_of
from trainer_core.documents import load_document
from trainer_core.errors import DocumentError
from trainer_core.paths import (
    find_folder,
    is_file,
    is_folder,
    places_of,
    search_folders,
)

_CONFIG_NAME: Final = "config.json"
_BACKENDS: Final = "data_backend_config"
_FIELDS: Final = {
    "lycoris_config": "lycoris_config",
    _BACKENDS: "data_backends",
    "user_prompt_library": "prompt_library",
}
"""The option in config.json that names a file, and the field that its content becomes."""
_USUAL_LYCORIS: Final = "config/lycoris_config.json"
"""Where SimpleTuner looks for it when lycoris_config is not given."""
_OFF: Final = ("", "none", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedFile:
    """A file that was read, and the option that named it."""

    option: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """A file that cannot be used, and the option that named it."""

    option: str
    error: CommandError | DocumentError


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """Everything of a submission but its datasets."""

    body: dict[str, Any]
    """``config``, ``data_backends`` and, where named, ``lycoris_config``, ``prompt_library``."""
    used: tuple[UsedFile, ...]
    folders: Mapping[str, Path]
    """Backend id → the folder that its instance_data_dir names, where that is on this machine."""


def read_documents(config: Path, settings: Mapping[str, Any], working_dir: Path) -> Documents:
    """Read config.json and the files that it names.

    A relative name is tried against the parent of the configuration's folder, that folder, and the
    working directory; at last by its base name in that folder.

    Args:
        config: the folder that holds config.json, or the file itself.
        settings: options that replace those of the file.

    Raises:
        CommandError: a file is missing (with every place that was tried) or holds something else.
        DocumentError: a file cannot be read; the message names its line.
    """
    documents, problems = gather_documents(config, settings, working_dir)
    if problems:
        raise problems[0].error
    return documents


def gather_documents(
    config: Path, settings: Mapping[str, Any], working_dir: Path
) -> tuple[Documents, list[FileProblem]]:
    """As ``read_documents``, but tells of each file that config.json names what is wrong with it.

    Raises CommandError or DocumentError where config.json itself cannot be read.
    """
    file = config / _CONFIG_NAME if is_folder(config) else config
    if not is_file(file):
        raise CommandError(f"there is no {file}")
    options = load_document(file)
    if not isinstance(options, dict):
        raise CommandError(f"{file} has to hold an object of options")
    options = with_settings(options, settings)
    body: dict[str, Any] = {"config": options}
    used = [UsedFile(option="config", path=file)]
    problems: list[FileProblem] = []
    folder = file.resolve().parent
    for option, field in _FIELDS.items():
        try:
            name = _path_in(options, option)
            if name is None and option == "lycoris_config":
                name = _usual_lycoris(options, folder=folder, working_dir=working_dir)
            if name is None:
                continue
            found = find_file(name, option, folder=folder, working_dir=working_dir)
            body[field] = _content(found, field)
        except (CommandError, DocumentError) as error:
            problems.append(FileProblem(option=option, error=error))
        else:
            used.append(UsedFile(option=option, path=found))
    if "data_backends" not in body and not any(p.option == _BACKENDS for p in problems):
        text = f"{file} names no data_backend_config, so no backend would be trained on"
        problems.append(FileProblem(option=_BACKENDS, error=CommandError(text)))
    backends = body.get("data_backends", [])
    folders = _data_folders(backends, folder=folder, working_dir=working_dir)
    return Documents(body=body, used=tuple(used), folders=folders), problems


def _content(file: Path, field: str) -> Any:
    """Raises CommandError where a file holds something of another kind."""
    content = load_document(file)
    if not isinstance(content, list if field == "data_backends" else dict):
        kind = "a list of backends" if field == "data_backends" else "an object"
        raise CommandError(f"{file} has to hold {kind}")
    return content


def find_file(name: str, option: str, *, folder: Path, working_dir: Path) -> Path:
    """The file that an option names; raises CommandError with every place that was tried."""
    tried = [*places_of(name, search_folders(folder, working_dir)), folder / Path(name).name]
    for place in tried:
        if is_file(place):
            return place
    places = ", ".join(dict.fromkeys(str(place) for place in tried))
    raise CommandError(f"{option} names {name}, which is in none of these places: {places}")


def _data_folders(backends: Sequence[Any], *, folder: Path, working_dir: Path) -> dict[str, Path]:
    """The folders of image backends that are here; what else is wrong is for the service to say."""
    found: dict[str, Path] = {}
    for backend in backends:
        if not isinstance(backend, dict):
            continue
        plain = {plain_name(key): value for key, value in backend.items()}
        name, backend_id = (text_of(plain.get(key)) for key in ("instance_data_dir", "id"))
        if not name or backend_id is None:
            continue
        if holds_no_images(backend):
            continue
        place = find_folder(name, search_folders(folder, working_dir))
        if place is not None:
            found[backend_id] = place
    return found


def with_settings(options: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options with some replaced, whether or not the file writes them with dashes."""
    names = {plain_name(name) for name in settings}
    kept = {name: value for name, value in options.items() if plain_name(name) not in names}
    return {**kept, **{plain_name(name): value for name, value in settings.items()}}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts as options; a value is JSON where it reads as such, else text.

    A number or truth value for an option that takes text stays the text that was written.

    Raises:
        ValueError: a text without ``=``.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not plain_name(key):
            raise ValueError(f"{pair!r} is not key=value")
        read = _json_or_text(value)
        verdict = OPTIONS.get(plain_name(key))
        is_text = verdict is not None and verdict.type == "text"
        settings[plain_name(key)] = value if is_text and isinstance(read, int | float) else read
    return settings


def _json_or_text(text: str) -> Any:
    """Keep text what JSON lacks a number for: NaN and infinity are refused by the service."""
    try:
        return json.loads(text, parse_constant=str, parse_float=_finite_or_text)
    except (ValueError, RecursionError):
        return text


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def plain_name(name: str) -> str:
    """The name of an option without the dashes that SimpleTuner's files may write before it."""
    return name.strip().lstrip("-")


def _written(options: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in options.items() if plain_name(key) == name), None)


def _path_in(options: Mapping[str, Any], name: str) -> str | None:
    """The path that an option holds; None where it is absent, empty or switched off.

    Raises CommandError where it holds something else.
    """
    value = _written(options, name)
    if value is None or value is False:
        return None
    if not isinstance(value, str):
        raise CommandError(f"{name} has to be a path, not {json.dumps(value)[:60]}")
    return None if value.strip().lower() in _OFF else value


def _usual_lycoris(options: Mapping[str, Any], *, folder: Path, working_dir: Path) -> str | None:
    """The usual name, where an adapter needs such a file, none is named and one is there."""
    wants = (
        _written(options, "lora_type") == "lycoris" and _written(options, "model_type") != "full"
    )
    if not wants or _written(options, "lycoris_config") not in (None, ""):
        return None
    try:
        find_file(_USUAL_LYCORIS, "lycoris_config", folder=folder, working_dir=working_dir)
    except CommandError:
        return None
    return _USUAL_LYCORIS
