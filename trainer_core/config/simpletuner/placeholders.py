"""Placeholders: ``{env:NAME}`` and its like in SimpleTuner's files, ``<token>`` in prompts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.reading import escaped, option_name

_TOKEN: Final = re.compile(r"(?<!\w)<[A-Za-z][A-Za-z0-9 _-]{0,63}>")
_BRACED: Final = re.compile(r"\{([^{}]+)\}")
_ENV: Final = "env:"
_MAX_DEPTH: Final = 32
"""What is nested deeper is refused later."""
_FAMILY: Final = "hidream"
_ID: Final = "id"
USUAL_OUTPUT_DIR: Final = "simpletuner-results"
"""SimpleTuner's ``output_dir`` where none is given."""


def unfilled_tokens(text: str) -> tuple[str, ...]:
    """The placeholders ``<token>`` in a prompt or caption, each once.

    Published prompt libraries use them for the name of the subject. Text encoders read them as they
    are.
    """
    return tuple(dict.fromkeys(_TOKEN.findall(text)))


def replaced_in(text: str) -> str | None:
    """The first placeholder that a data backend with this text would have replaced, or None."""
    names = {*dict(_names_in({})), _ID}
    found = (match for match in _BRACED.finditer(text))
    return next((m[0] for m in found if m[1].startswith(_ENV) or m[1] in names), None)


@dataclass(slots=True)
class Filling:
    """Replaces the placeholders of documents by values, and keeps what it found."""

    env: Mapping[str, str] | None
    """The variables of ``{env:NAME}``; None: they are left as they are."""
    used: dict[str, str] = field(default_factory=dict)
    """Variable → JSON Pointer to the first value that has it."""
    unset: list[tuple[str, str]] = field(default_factory=list)
    """JSON Pointer and variable, for each ``{env:NAME}`` that was not replaced."""

    def filled(
        self, value: JsonValue, pointer: str, names: Mapping[str, str], depth: int = 0
    ) -> JsonValue:
        """The value with every placeholder of ``names``, and of variables, replaced.

        Keys are left as they are, and so is anything else in braces. Source: SimpleTuner 4.10.1
        replaces them in the values of config.json and of data backends.
        """
        if depth > _MAX_DEPTH:
            return value
        match value:
            case str():
                return _BRACED.sub(lambda match: self._replaced(match, pointer, names), value)
            case list():
                return [
                    self.filled(item, f"{pointer}/{position}", names, depth + 1)
                    for position, item in enumerate(value)
                ]
            case dict():
                return {
                    key: self.filled(item, f"{pointer}/{escaped(str(key))}", names, depth + 1)
                    for key, item in value.items()
                }
            case _:
                return value

    def _replaced(self, match: re.Match[str], pointer: str, names: Mapping[str, str]) -> str:
        name = match[1]
        if not name.startswith(_ENV):
            return names.get(name, match[0])
        variable = name.removeprefix(_ENV)
        if self.env is None or variable not in self.env:
            self.unset.append((pointer, variable))
            return match[0]
        self.used.setdefault(variable, pointer)
        return self.env[variable]


def unset_message(variable: str) -> str:
    """Why ``{env:NAME}`` was not replaced, and what to do."""
    if not variable.strip():
        return "{env:} names no environment variable. Write {env:NAME}, or the value."
    return (
        f"{{env:{variable[:100]}}}: the environment variable {variable[:100]} is not set. Set it, "
        "or write the value."
    )


def filled_config(config: Mapping[str, JsonValue], filling: Filling) -> dict[str, JsonValue]:
    """The options of config.json, where only ``{env:NAME}`` is a placeholder."""
    return {
        name: filling.filled(value, f"/config/{escaped(str(name))}", {})
        for name, value in config.items()
    }


def filled_backends(
    backends: Sequence[JsonValue], config: Mapping[str, JsonValue], filling: Filling
) -> list[JsonValue]:
    """The data backends, where ``{model_family}``, ``{output_dir}`` and ``{id}`` are placeholders.

    Args:
        backends: the list of the file; what is no object is left as it is.
        config: the options, whose values the placeholders have.
        filling: replaces them.
    """
    common = dict(_names_in(config))
    found: list[JsonValue] = []
    for position, item in enumerate(backends):
        if not isinstance(item, dict):
            found.append(item)
            continue
        id_ = _text(item, _ID)
        names = common if id_ is None else {**common, _ID: id_}
        found.append(filling.filled(item, f"/data_backends/{position}", names))
    return found


def _names_in(config: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    yield "model_family", _text(config, "model_family") or _FAMILY
    yield "output_dir", _text(config, "output_dir") or USUAL_OUTPUT_DIR


def _text(options: Mapping[str, JsonValue], name: str) -> str | None:
    """The text of an option, written with or without dashes; None where it has none."""
    for written, value in options.items():
        if isinstance(written, str) and option_name(written) == name:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return str(value)
            return value if isinstance(value, str) else None
    return None
