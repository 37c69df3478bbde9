"""Collects the names that versions of SimpleTuner read, from their wheels, without running them.

    python -m tests.support.simpletuner_names WHEEL... > tests/golden/simpletuner_names.json

Wheels come from ``pip download --no-deps --python-version 3.12 --only-binary=:all:
simpletuner==VERSION``; versions before 2.2 have none, but tags, of which ``git archive --format=zip
-o simpletuner-VERSION-source.zip vVERSION`` makes files that are read alike. Only names, defaults
and choices are collected, which are facts about an interface; no text and no code of SimpleTuner is
kept. ``test_simpletuner_names`` checks that every name has a verdict.
"""

import argparse
import ast
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import json5

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,70}")
_REGISTRY: Final = "/field_registry/"
_PARSERS: Final = ("helpers/configuration/cmd_args.py", "helpers/arguments.py")
_ENVIRONMENT: Final = "helpers/configuration/env_file.py"
_LEGACY: Final = "helpers/configuration/cli_utils.py"
_BLUEPRINTS: Final = "data/dataset_blueprints.py"
_EXAMPLE: Final = re.compile(r"/examples/([^/]+/)?[^/]+\.json$")
_DATA_CODE: Final = re.compile(
    r"helpers/(data_backend|metadata|multiaspect|caching|image_manipulation|data_generation)/"
    r"|helpers/training/(state_tracker|collate)\.py|helpers/prompts\.py"
)
_HOLDS_A_BACKEND: Final = re.compile(
    r"(\b|_)((data_?)?backend(_config|_dict)?|dataset_config|init_backend(\['config'\])?|data_config)$"
)
"""Expressions that hold one entry of the list of data backends, by their source text."""


@dataclass
class Names:
    """The names of one version."""

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    backend_keys: set[str] = field(default_factory=set)
    environment: dict[str, str] = field(default_factory=dict)


def names_in(wheel: Path) -> Names:
    """The names that the code in a wheel reads."""
    found = Names()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if _EXAMPLE.search(name):
                _add_example(archive.read(name), found)
            if not name.endswith(".py"):
                continue
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                tree = ast.parse(archive.read(name))
            if _REGISTRY in name:
                found.options |= dict(_registered(tree))
            if name.endswith(_PARSERS):
                found.options |= dict(_parsed(tree))
            if name.endswith(_ENVIRONMENT):
                found.environment |= dict(_environment(tree))
                for option in found.environment.values():
                    found.options.setdefault(option.partition("=")[0], {})
            if name.endswith(_LEGACY):
                found.options |= {each: {} for each in _legacy(tree) if each not in found.options}
            if name.endswith(_BLUEPRINTS):
                found.backend_keys |= set(_blueprint_keys(tree))
            if _DATA_CODE.search(name):
                found.backend_keys |= set(_read_keys(tree))
    return found


def _add_example(text: bytes, found: Names) -> None:
    """Names in a shipped example: a list of data backends, or an object of options."""
    try:
        example = json5.loads(text.decode())
    except ValueError:
        return
    if isinstance(example, list) and all(isinstance(each, dict) for each in example):
        for backend in example:
            if {"id", "type"} <= backend.keys():
                found.backend_keys |= set(backend)
    elif isinstance(example, dict) and any(k.lstrip("-") == "model_family" for k in example):
        for key in example:
            found.options.setdefault(key.lstrip("-"), {})


def _registered(tree: ast.AST) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options of the registry of fields, and their second names."""
    for call in _calls(tree, "ConfigField"):
        given = {each.arg: each.value for each in call.keywords}
        name = _constant(given.get("name"))
        if not isinstance(name, str):
            continue
        facts: dict[str, Any] = {}
        default = _constant(given.get("default_value"))
        if default is not None:
            facts["default"] = default
        choices = _constant(given.get("choices"))
        if isinstance(choices, list):
            facts["choices"] = [
                each.get("value") if isinstance(each, dict) else each for each in choices
            ]
        yield name, facts
        aliases = _constant(given.get("aliases")) or []
        written = _constant(given.get("arg_name"))
        for other in (*aliases, *([written] if isinstance(written, str) else [])):
            second = str(other).lstrip("-")
            if second != name:
                yield second, {"alias_of": name}


def _parsed(tree: ast.AST) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options of ``add_argument`` calls, as older versions have them."""
    for call in _calls(tree, "add_argument"):
        names = [_constant(each) for each in call.args]
        long = [n[2:] for n in names if isinstance(n, str) and n.startswith("--")]
        for name in long:
            facts: dict[str, Any] = {}
            for each in call.keywords:
                if each.arg in {"default", "choices"} and (value := _constant(each.value)):
                    facts[each.arg] = value
            yield name, facts


def _legacy(tree: ast.AST) -> Iterator[str]:
    """Names that have a handler of their own."""
    for call in _calls(tree, "_legacy_handler"):
        if isinstance(name := _constant(call.args[0]), str):
            yield name


def _environment(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                name, option = _constant(key), _constant(value)
                if isinstance(name, str) and isinstance(option, str) and option.startswith("--"):
                    yield name, option[2:]


def _blueprint_keys(tree: ast.AST) -> Iterator[str]:
    """Keys of the web form's data sets."""
    for call in _calls(tree, "BlueprintField"):
        given = {each.arg: each.value for each in call.keywords}
        if isinstance(name := _constant(given.get("id")), str):
            yield name.partition(".")[0]


def _read_keys(tree: ast.AST) -> Iterator[str]:
    """Keys that code reads of one entry of the list of data backends."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=owner, attr="get" | "pop" | "setdefault"),
                args=[ast.Constant(value=str(key)), *_],
            ):
                pass
            case ast.Subscript(value=owner, slice=ast.Constant(value=str(key))):
                pass
            case ast.Compare(
                left=ast.Constant(value=str(key)),
                ops=[ast.In() | ast.NotIn()],
                comparators=[owner],
            ):
                pass
            case _:
                continue
        if _NAME.fullmatch(key) and _HOLDS_A_BACKEND.search(ast.unparse(owner)):
            yield key


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            own = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if own == name:
                yield node


def _constant(node: ast.AST | None) -> Any:
    """The value of a literal; None for anything else."""
    if node is None:
        return None
    try:
        return ast.literal_eval(ast.unparse(node))
    except (ValueError, SyntaxError):
        return None


def snapshot(wheels: list[Path]) -> dict[str, Any]:
    """The names of all versions, the newest last; each with the last version that has it."""
    options: dict[str, dict[str, Any]] = {}
    keys: dict[str, str] = {}
    environment: dict[str, dict[str, str]] = {}
    versions = sorted(((_version(wheel), wheel) for wheel in wheels), key=lambda each: each[0])
    for version, wheel in versions:
        text, found = ".".join(map(str, version)), names_in(wheel)
        options |= {name: {**facts, "last": text} for name, facts in found.options.items()}
        keys |= dict.fromkeys(found.backend_keys, text)
        environment |= {
            name: {"option": option, "last": text} for name, option in found.environment.items()
        }
    return {
        "made_by": "python -m tests.support.simpletuner_names",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": [".".join(map(str, version)) for version, _ in versions],
        "options": dict(sorted(options.items())),
        "backend_keys": dict(sorted(keys.items())),
        "environment": dict(sorted(environment.items())),
    }


def _version(wheel: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in wheel.name.split("-")[1].split("."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    sys.stdout.write(json.dumps(snapshot(parser.parse_args().wheels), indent=1) + "\n")


if __name__ == "__main__":
    main()
