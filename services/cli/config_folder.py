"""Finds and reads the options of a configuration: config.json, config.toml or config.env."""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from services.cli.connection import CommandError
from services.cli.env_file import Variable, parse_env
from trainer_core.config.simpletuner.environment_names import (
    BITFIT,
    ENVIRONMENT_NAMES,
    EXTRA_ARGUMENTS,
    FORMS,
)
from trainer_core.documents import load_document, load_toml, read_text
from trainer_core.errors import DocumentError
from trainer_core.paths import is_file, is_folder

Form = Literal["json", "toml", "env"]
_NAMES: Final[Mapping[Form, str]] = {
    "json": "config.json",
    "toml": "config.toml",
    "env": "config.env",
}
"""In SimpleTuner's order: the first one that is there has the options."""
_LOOKED_FOR: Final = "config.json, config.toml or config.env"
_BASE_FOLDER: Final = "config"
"""SimpleTuner reads config/config.env before config/<name>/config.env."""
_NAMED_AT_MOST: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """The options of one file, and what is beside it."""

    file: Path
    options: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    """Option → its line, of a config.env."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What config.env sets; ``{env:NAME}`` finds it."""
    notes: tuple[str, ...] = ()
    """What is not read, each a sentence."""


def read_configuration(config: Path, env: Mapping[str, str]) -> Configuration:
    """Read the options in a folder, or in one file.

    Args:
        config: a folder with config.json, config.toml or config.env, or one such file.
        env: variables that config.env may refer to.

    Raises:
        CommandError: there is no such file, or it holds no options.
        DocumentError: a file cannot be read; the message names its line.
    """
    folder = config if is_folder(config) else config.parent
    beside, trouble = _variables_beside(folder, env)
    form = _form_in(config, beside) if is_folder(config) else _form_of(config)
    file = config / _NAMES[form] if is_folder(config) else config
    if not is_file(file):
        is_other = os.path.exists(file)  # noqa: PTH110 - a name that is too long is not there
        none = f"{file} is neither a file nor a folder with a configuration"
        raise CommandError(none if is_other else f"there is no {file}")
    notes = _unread(config, form) if is_folder(config) else []
    if form == "env":
        return _from_env(file, _env_files(folder) if is_folder(config) else [file], env, notes)
    options = load_document(file) if form == "json" else load_toml(file)
    if not isinstance(options, dict):
        raise CommandError(f"{file} has to hold an object of options")
    return Configuration(
        file=file,
        options=options,
        variables={name: each.value for name, each in beside.items()},
        notes=(*notes, *trouble),
    )


def _form_of(file: Path) -> Form:
    """By the suffix of a file that is named itself."""
    suffix = file.suffix.lower().removeprefix(".")
    return cast(Form, suffix) if suffix in get_args(Form) else "json"


def _form_in(folder: Path, variables: Mapping[str, Variable]) -> Form:
    """The form that config.env asks for, or the first one whose file is there.

    Raises CommandError where there is none.
    """
    asked = next((variables[name].value for name in FORMS if name in variables), None)
    if asked:
        if asked.lower() not in _NAMES:
            raise CommandError(
                f"{folder / _NAMES['env']} asks for options from {asked}; {_LOOKED_FOR} is read"
            )
        return cast(Form, asked.lower())
    found = next((form for form, name in _NAMES.items() if is_file(folder / name)), None)
    if found is None:
        raise CommandError(f"{folder} has no configuration: {_LOOKED_FOR} was looked for")
    return found


def _unread(folder: Path, form: Form) -> list[str]:
    """Which of the other forms are there, too."""
    others = [name for other, name in _NAMES.items() if other not in (form, "env")]
    there = [name for name in others if is_file(folder / name)]
    return [f"{folder / name} is not read: {_NAMES[form]} has the options." for name in there]


def _env_files(folder: Path) -> list[Path]:
    """The files of variables, in the order in which they are read."""
    base = [folder.parent] if folder.resolve().parent.name == _BASE_FOLDER else []
    places = [place / _NAMES["env"] for place in (*base, folder)]
    return [place for place in places if is_file(place)]


def _variables_beside(
    folder: Path, env: Mapping[str, str]
) -> tuple[dict[str, Variable], list[str]]:
    """What config.env sets; a note where it cannot be read, as the options may be elsewhere."""
    try:
        return _read_env(_env_files(folder), env), []
    except DocumentError as error:
        return {}, [f"{error.message}. So {{env:NAME}} finds none of its variables."]


def _read_env(files: list[Path], env: Mapping[str, str]) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    for file in files:
        known = {**env, **{name: each.value for name, each in found.items()}}
        found |= parse_env(read_text(file), name=str(file), env=known)
    return found


def _from_env(
    file: Path, files: list[Path], env: Mapping[str, str], notes: list[str]
) -> Configuration:
    """The options of config.env; raises DocumentError."""
    variables = _read_env(files, env)
    options: dict[str, Any] = {}
    lines: dict[str, int] = {}
    foreign = []
    for name, variable in variables.items():
        if not variable.value or name in FORMS:
            continue
        if name == EXTRA_ARGUMENTS:
            found = dict(_arguments(variable, file))
        elif name == BITFIT:
            found = {"layer_freeze_strategy": "bitfit"} if _is_true(variable.value) else {}
        elif name in ENVIRONMENT_NAMES:
            found = {ENVIRONMENT_NAMES[name]: variable.value}
        else:
            foreign.append(name)
            continue
        # As in SimpleTuner the extra arguments win, wherever they are.
        kept = {o: v for o, v in found.items() if name == EXTRA_ARGUMENTS or o not in options}
        options |= kept
        lines |= dict.fromkeys(kept, variable.line)
    if foreign:
        more = ", …" if len(foreign) > _NAMED_AT_MOST else ""
        named = ", ".join(foreign[:_NAMED_AT_MOST]) + more
        notes = [*notes, f"{file}: no option of SimpleTuner has these names: {named}."]
    return Configuration(
        file=file,
        options=options,
        lines=lines,
        variables={name: each.value for name, each in variables.items()},
        notes=tuple(notes),
    )


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"


def _arguments(variable: Variable, file: Path) -> Iterator[tuple[str, str]]:
    """Options as on a command line: ``--name=value``, ``--name value`` or ``--name``."""
    where = f"{file}, line {variable.line}: {EXTRA_ARGUMENTS}"
    try:
        words = shlex.split(variable.value)
    except ValueError as error:
        raise DocumentError(f"{where}: {str(error).lower()}") from error
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise DocumentError(f"{where}: {word[:60]} is not --name=value")
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        yield name, value
