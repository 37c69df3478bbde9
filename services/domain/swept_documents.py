"""Where a swept option is in the documents of a run, and the documents with its value there.

An option of ``config.json`` goes by its name. An option of another document goes by the document's
name and the keys that lead to it, with dots between them: ``lycoris_config.linear_dim``,
``data_backends.photos.resolution`` (a backend goes by its id), ``datasets.photos``.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from services.domain.errors import InvalidRequestError, Problem
from services.domain.sweep_rows import Row, at_option
from trainer_core.config.simpletuner.reading import escaped, option_name

Documents: TypeAlias = Mapping[str, Any]
"""A run request as JSON: ``config``, ``lycoris_config`` and so on."""
Path: TypeAlias = tuple[str | int, ...]
"""Keys and positions from the top of a run request to a value."""

_CONFIG: Final = "config"
_BACKENDS: Final = "data_backends"
_OTHERS: Final = ("lycoris_config", _BACKENDS, "prompt_library", "datasets")
_MAX_COMPARED: Final = 30
_SHOWN_CHARACTERS: Final = 200


def find_options(base: Documents, names: Iterable[str]) -> dict[str, Path]:
    """Name of each swept option → where it is; raises InvalidRequestError.

    Whether there is such an option is for the planner to say, except that a backend has to exist.
    """
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for name in names:
        path = _find(base, name)
        if isinstance(path, Problem):
            problems.append(path)
            continue
        for other, there in found.items():
            if path[: len(there)] == there or there[: len(path)] == path:
                message = f"{name} and {other} are the same option, or one is a part of the other."
                problems.append(Problem(pointer=at_option(name), code="conflict", message=message))
        found[name] = path
    if problems:
        raise InvalidRequestError(problems)
    return found


def with_row(base: Documents, row: Row, paths: Mapping[str, Path]) -> dict[str, Any]:
    """The documents with the values of a row; what they share with ``base`` is not copied."""
    changed: Any = base
    for name, choice in row.items():
        changed = _with(changed, paths[name], choice.value)
    return dict(changed)


def pointer_in_sweep(pointer: str, row: Row, paths: Mapping[str, Path]) -> str:
    """A pointer into the documents of a row as one into the body of the sweep that made it."""
    for name, choice in row.items():
        there = "".join(f"/{escaped(str(part))}" for part in paths[name])
        if f"{pointer}/".startswith(f"{there}/"):
            inner = "" if choice.position is None else pointer.removeprefix(there)
            return at_option(name, choice.position) + inner
    return f"/base{pointer}"


def differing(requests: Sequence[Documents]) -> list[dict[str, Any]]:
    """What differs among run requests, for each of them: name of an option → its value.

    Names are those of a sweep, at most ``_MAX_COMPARED``; an option that a request lacks is None.
    Long values are cut.
    """
    flat = [dict(_flat(request)) for request in requests]
    names = dict.fromkeys(name for each in flat for name in each)
    differ = list(islice((name for name in names if _differs(name, flat)), _MAX_COMPARED))
    return [{name: shortened(each.get(name)) for name in differ} for each in flat]


def shortened(value: Any) -> Any:
    """The value, or the beginning of its text where that is long."""
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _find(base: Documents, name: str) -> Path | Problem:
    document, dot, rest = option_name(name).partition(".")
    if document not in _OTHERS or not dot:
        return (_CONFIG, _written(base[_CONFIG], option_name(name)))
    if document == _BACKENDS:
        return _find_in_backends(base, name, rest)
    value = base.get(document)
    return _below((document,), {} if value is None else value, name, rest)


def _find_in_backends(base: Documents, name: str, rest: str) -> Path | Problem:
    listed = base[_BACKENDS]
    backends = dict(_backends(listed))
    id_, inner = _split(backends, rest)
    if id_ not in backends:
        close = difflib.get_close_matches(id_[:100], backends, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        message = f"There is no data backend {id_[:100]}.{hint}"
        return Problem(pointer=at_option(name), code="bad_value", message=message)
    return _below((_BACKENDS, listed.index(backends[id_])), backends[id_], name, inner)


def _below(path: Path, value: Any, name: str, rest: str) -> Path | Problem:
    """The path of ``rest`` within a value that ``path`` leads to."""
    while True:
        if not rest or not isinstance(value, Mapping):
            where = name.removesuffix(rest).rstrip(".")
            message = f"{where} has no options." if rest else f"Name an option of {where}."
            return Problem(pointer=at_option(name), code="bad_value", message=message)
        key, inner = _split(value, rest)
        key = _written(value, key)
        path = (*path, key)
        if not inner and not rest.endswith("."):
            return path
        value, rest = {} if value.get(key) is None else value[key], inner


def _split(keys: Iterable[str], rest: str) -> tuple[str, str]:
    """The longest key that ``rest`` begins with, or its part before a dot; and what follows."""
    fitting = [key for key in keys if f"{rest}.".startswith(f"{key}.")]
    key = max(fitting, key=len) if fitting else rest.partition(".")[0]
    return key, rest[len(key) + 1 :]


def _written(options: Mapping[str, Any], name: str) -> str:
    """The key as it is written in an object of options, with or without dashes."""
    name = option_name(name)
    return next((key for key in options if option_name(key) == name), name)


def _with(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    here, *below = path
    if isinstance(here, int):
        items = list(value)
        items[here] = _with(items[here], tuple(below), new)
        return items
    members = dict(value or {})
    members[here] = _with(members.get(here), tuple(below), new)
    return members


def _differs(name: str, flat: Sequence[Mapping[str, Any]]) -> bool:
    texts = (json.dumps(each.get(name), sort_keys=True) for each in flat)
    first = next(texts)
    return any(text != first for text in texts)


def _flat(request: Documents) -> Iterator[tuple[str, Any]]:
    """Names, as in a sweep, and values of all options."""
    for document, value in request.items():
        if document == _CONFIG:
            yield from ((option_name(key), each) for key, each in value.items())
        elif document == _BACKENDS:
            yield from _flat_below(document, dict(_backends(value)))
        else:
            yield from _flat_below(document, value)


def _backends(listed: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Id and options of each data backend; what is none is skipped: the planner reports it."""
    for item in listed:
        if isinstance(item, Mapping):
            yield str(item.get("id", item.get("--id"))), item


def _flat_below(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat_below(f"{name}.{option_name(key)}", inner)
    else:
        yield name, value
