"""Finds and reads SimpleTuner's files: the options, and the files that they name."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.cli.caption_filter_files import OPTION as FILTERS
from services.cli.caption_filter_files import with_filter_lists
from services.cli.config_folder import read_configuration
from services.cli.connection import CommandError
from trainer_core.config.simpletuner.backends import holds_no_images
from trainer_core.config.simpletuner.deepspeed_text import file_named_by, is_preset
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.placeholders import (
    Filling,
    filled_backends,
    filled_config,
    unset_message,
)
from trainer_core.config.simpletuner.reading import option_name, text_of
from trainer_core.documents import load_document
from trainer_core.errors import DocumentError
from trainer_core.paths import (
    find_folder,
    is_file,
    is_folder,
    places_of,
    search_folders,
)

_BACKENDS: Final = "data_backend_config"
_LYCORIS: Final = "lycoris_config"
_FIELDS: Final = {
    _LYCORIS: "lycoris_config",
    _BACKENDS: "data_backends",
    "user_prompt_library": "prompt_library",
}
"""Option in config.json that names a file → field of ``Documents.body`` for its content."""
_DEEPSPEED: Final = "deepspeed_config"
_USUAL_LYCORIS: Final = "config/lycoris_config.json"
"""Where SimpleTuner looks when lycoris_config is not given."""
_OFF: Final = ("", "none", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedFile:
    """A file that was read."""

    option: str
    """The option that names it; ``config`` for the options themselves."""
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """A file that cannot be used."""

    option: str
    """The option that names it."""
    error: CommandError | DocumentError
    pointer: str | None = None
    """JSON Pointer to what is wrong; None: to the option."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The files of a run, as they are sent to the service."""

    body: dict[str, Any]
    """``config``, ``data_backends`` and, where named, ``lycoris_config``, ``prompt_library``."""
    used: tuple[UsedFile, ...]
    folders: Mapping[str, Path]
    """Backend id → the folder that its instance_data_dir names, if that is on this machine."""
    notes: tuple[str, ...] = ()
    """Files, and names in config.env, that are not read, each a sentence."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Option → its line, of a config.env."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Variable of ``{env:NAME}`` → JSON Pointer to the first value that has it."""

    @property
    def config_dir(self) -> Path:
        """The folder of the options, from which relative names are tried."""
        return next(each.path for each in self.used if each.option == "config").resolve().parent


def read_documents(
    config: Path, settings: Mapping[str, Any], working_dir: Path, env: Mapping[str, str]
) -> Documents:
    """Read the options and the files that they name.

    A relative name is tried from the parent of the configuration's folder, from that folder, and
    from the working directory; last, its base name is tried in the configuration's folder.

    Args:
        config: the folder that holds config.json, config.toml or config.env, or such a file.
        settings: options that replace those of the file.
        working_dir: the last folder that a relative name is tried from.
        env: the variables of ``{env:NAME}``; those of a config.env come first.

    Raises:
        CommandError: a file is missing (the message lists every place that was tried), or does not
            hold what it should.
        DocumentError: a file cannot be read; the message names its line.
    """
    documents, problems = gather_documents(config, settings, working_dir, env)
    if problems:
        raise _with_place(problems[0], documents)
    return documents


def _with_place(problem: FileProblem, documents: Documents) -> CommandError | DocumentError:
    """The error of a problem; of one inside a file it names the file and the place."""
    if problem.pointer is None:
        return problem.error
    file = next(each.path for each in documents.used if each.option == problem.option)
    return CommandError(f"{file}, {problem.pointer}: {problem.error}")


def gather_documents(
    config: Path, settings: Mapping[str, Any], working_dir: Path, env: Mapping[str, str]
) -> tuple[Documents, list[FileProblem]]:
    """As ``read_documents``, but returns a problem for each file that cannot be used.

    Raises CommandError or DocumentError where the options themselves cannot be read.
    """
    found = read_configuration(config, env)
    filling = Filling(env={**env, **found.variables})
    file, options = found.file, filled_config(_with_settings(found.options, settings), filling)
    places = _Places(config_dir=file.resolve().parent, working_dir=working_dir)
    body: dict[str, Any] = {"config": options}
    used = [UsedFile(option="config", path=file)]
    problems: list[FileProblem] = []
    try:
        used += _read_deepspeed(options, places)
    except (CommandError, DocumentError) as error:
        problems.append(FileProblem(option=_DEEPSPEED, error=error))
    for option, name in _FIELDS.items():
        try:
            path = _path_of(option, options, places)
            if path is None:
                continue
            body[name] = _read_content(path, name)
            used.append(UsedFile(option=option, path=path))
        except (CommandError, DocumentError) as error:
            if not _is_idle(option, options):
                problems.append(FileProblem(option=option, error=error))
    if _BACKENDS not in {*(it.option for it in used), *(it.option for it in problems)}:
        text = f"{file} names no data_backend_config, so no backend would be trained on"
        problems.append(FileProblem(option=_BACKENDS, error=CommandError(text)))
    backends = _FIELDS[_BACKENDS]
    if backends in body:
        filled = filled_backends(body[backends], options, filling)
        body[backends], files, broken = with_filter_lists(
            filled, lambda name: places.find_file(name, FILTERS)
        )
        used += [UsedFile(option=FILTERS, path=file) for file in files]
        problems += [FileProblem(option=_BACKENDS, error=e, pointer=at) for at, e in broken]
    problems += _unset(filling)
    documents = Documents(
        body=body,
        used=tuple(used),
        folders=_image_folders(body.get(backends, []), places),
        notes=found.notes,
        lines={name: line for name, line in found.lines.items() if name not in settings},
        replaced=filling.used,
    )
    return documents, problems


def _read_deepspeed(options: dict[str, Any], places: "_Places") -> list[UsedFile]:
    """Put the content of the file that deepspeed_config names in its place.

    An adapter trains without DeepSpeed, so that the file need not be there.
    """
    if _written(options, "model_type") != "full":
        return []
    written = next((key for key in options if plain_name(key) == _DEEPSPEED), None)
    name = None if written is None else file_named_by(options[written])
    if written is None or name is None:
        return []
    path = places.find_file(name, _DEEPSPEED)
    content = load_document(path)
    if is_preset(content):
        raise CommandError(
            f"{path} holds {json.dumps(content)}, which is no object: write it as "
            f"{_DEEPSPEED} itself"
        )
    options[written] = _checked_content(path, content, _DEEPSPEED)
    return [UsedFile(option=_DEEPSPEED, path=path)]


def _unset(filling: Filling) -> Iterator[FileProblem]:
    """A problem for each ``{env:NAME}`` whose variable is not set."""
    for pointer, variable in filling.unset:
        option = _BACKENDS if pointer.startswith(f"/{_FIELDS[_BACKENDS]}/") else "config"
        error = CommandError(unset_message(variable))
        yield FileProblem(option=option, error=error, pointer=pointer)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """Where relative names are tried from."""

    config_dir: Path
    working_dir: Path

    def folders(self) -> tuple[Path, ...]:
        return search_folders(self.config_dir, self.working_dir)

    def find_file(self, name: str, option: str) -> Path:
        """The file that an option names; raises CommandError, which lists what was tried."""
        tried = [*places_of(name, self.folders()), self.config_dir / Path(name).name]
        for place in tried:
            if is_file(place):
                return place
        folder = next((place for place in tried if is_folder(place)), None)
        if folder is not None:
            raise CommandError(
                f"{option} names {name}, and {folder} is a folder: name a file in it"
            )
        listed = ", ".join(dict.fromkeys(str(place) for place in tried))
        raise CommandError(f"{option} names {name}, which is in none of these places: {listed}")


def _read_content(file: Path, field: str) -> Any:
    """What a file holds; raises CommandError where that is of another kind than ``field`` is."""
    return _checked_content(file, load_document(file), field)


def _checked_content(file: Path, content: Any, field: str) -> Any:
    if not isinstance(content, list if field == "data_backends" else dict):
        kind = "a list of backends" if field == "data_backends" else "an object"
        raise CommandError(f"{file} has to hold {kind}")
    return content


def _path_of(option: str, options: Mapping[str, Any], places: _Places) -> Path | None:
    """The file that an option names, or SimpleTuner would look for; None where there is none.

    Raises CommandError where the option names a file that does not exist, or holds no path.
    """
    name = _name_in(options, option)
    if name is not None:
        return places.find_file(name, option)
    is_unnamed = _written(options, option) in (None, "")
    if option != _LYCORIS or not is_unnamed or not _trains_lycoris(options):
        return None
    try:
        return places.find_file(_USUAL_LYCORIS, option)
    except CommandError:
        return None


def _name_in(options: Mapping[str, Any], option: str) -> str | None:
    """The path that an option holds; None where it is absent, empty or switched off."""
    value = _written(options, option)
    if value is None or value is False:
        return None
    if not isinstance(value, str):
        raise CommandError(f"{option} has to be a path, not {json.dumps(value)[:60]}")
    return None if value.strip().lower() in _OFF else value


def _is_idle(option: str, options: Mapping[str, Any]) -> bool:
    """Whether nothing follows from the file that an option names, so that it may be missing."""
    return option == _LYCORIS and not _trains_lycoris(options)


def _trains_lycoris(options: Mapping[str, Any]) -> bool:
    is_full_rank = bool(_written(options, "model_type") == "full")
    return not is_full_rank and bool(_written(options, "lora_type") == "lycoris")


def _image_folders(backends: Sequence[Any], places: _Places) -> dict[str, Path]:
    """Backend id → its image folder, of those that are on this machine.

    Backends that are malformed are skipped: resolving the plan reports them.
    """
    found: dict[str, Path] = {}
    for backend in backends:
        if not isinstance(backend, dict) or holds_no_images(backend):
            continue
        plain = {plain_name(key): value for key, value in backend.items()}
        name, backend_id = (text_of(plain.get(key)) for key in ("instance_data_dir", "id"))
        folder = find_folder(name, places.folders()) if name else None
        if folder is not None and backend_id is not None:
            found[backend_id] = folder
    return found


def _with_settings(options: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options with some replaced; leading dashes of a name do not matter."""
    names = {plain_name(name) for name in settings}
    kept = {name: value for name, value in options.items() if plain_name(name) not in names}
    return {**kept, **{plain_name(name): value for name, value in settings.items()}}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Options from ``key=value`` texts, each value as ``value_of`` reads it.

    Raises:
        ValueError: a text without ``=``.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not plain_name(key):
            raise ValueError(f"{pair!r} is not key=value")
        settings[plain_name(key)] = value_of(plain_name(key), value)
    return settings


def value_of(option: str, text: str) -> Any:
    """The value that a text gives to an option: JSON where it is valid JSON.

    A number or boolean stays text for an option that takes text.
    """
    read = _json_or_text(text)
    verdict = OPTIONS.get(option)
    is_text = verdict is not None and verdict.type == "text"
    return text if is_text and isinstance(read, int | float) else read


def _json_or_text(text: str) -> Any:
    """NaN and infinity stay text: they are no JSON numbers, and the plan refuses them."""
    try:
        return json.loads(text, parse_constant=str, parse_float=_finite_or_text)
    except (ValueError, RecursionError):
        return text


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def plain_name(name: str) -> str:
    """The name of an option without the dashes that SimpleTuner's files may write before it."""
    return option_name(name.strip())


def _written(options: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in options.items() if plain_name(key) == name), None)
