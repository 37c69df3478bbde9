"""Writes docs/reference/options.md: ``python -m trainer_core.config.simpletuner.option_docs``."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.presets import CLASS_NAMES, OVERRIDE, PRESET
from trainer_core.config.simpletuner.verdicts import Kind, Option, Verdict

PAGE: Final = Path("docs/reference/options.md")
"""Relative to the root of the repository."""

_HEAD: Final = """\
# Options

<!-- Made by `python -m trainer_core.config.simpletuner.option_docs`; do not edit. -->

Reverie reads SimpleTuner's files as they are: comments, trailing commas, numbers and booleans as
text (`"false"` is false), names with or without leading dashes. Each option has one row here. A
name that is not on this page is an error that names similar options. All errors are reported at
once.

"""
_KINDS: Final[dict[Kind, str]] = {
    "honoured": "These act.",
    "differs": "The run is accepted and trains the same weights. What the option requests beside "
    "them is not done, and a notice says so.",
    "handled": "Something here does the work of the option, whatever its value.",
    "no_effect": "These change nothing here, whatever their value.",
    "removed": "SimpleTuner had these once. They have no effect.",
    "not_implemented": "These are errors, unless they are given at a value that requests nothing: "
    "null, false, empty, or as listed.",
    "refused": "These are errors and will not be built.",
}
_TABLES: Final[tuple[tuple[str, Mapping[str, Verdict]], ...]] = (
    ("config.json", OPTIONS),
    ("Data backends (multidatabackend.json)", BACKEND_OPTIONS),
    ("LyCORIS config (lycoris_config.json)", LYCORIS.rows),
    ("LyCORIS config: apply_preset", PRESET.rows),
    ("LyCORIS config: overrides in module_algo_map and name_algo_map", OVERRIDE.rows),
)


def page() -> str:
    """The whole page."""
    return _HEAD + "\n".join((*_sections(), *_class_names()))


def _sections() -> Iterator[str]:
    for title, table in _TABLES:
        yield f"## {title}\n"
        for kind, sentence in _KINDS.items():
            rows = sorted((name, v) for name, v in table.items() if v.kind == kind)
            if rows:
                yield f"### {kind.replace('_', ' ').capitalize()}\n\n{sentence}\n"
                yield from _rows(kind, rows)
                yield ""


def _rows(kind: Kind, rows: Sequence[tuple[str, Verdict]]) -> Iterator[str]:
    if kind == "honoured":
        yield "| Option | Type | Default | Values | What it does |\n| --- | --- | --- | --- | --- |"
        for name, row in rows:
            if isinstance(row, Option):
                default = _code(_default(row))
                yield f"| `{name}` | {row.type} | {default} | {_values(row)} | {row.reason} |"
    elif kind == "not_implemented":
        yield "| Option | Requests nothing at | What to do |\n| --- | --- | --- |"
        for name, row in rows:
            yield f"| `{name}` | {', '.join(_code(off) for off in row.off)} | {row.reason} |"
    else:
        yield "| Option | Why |\n| --- | --- |"
        for name, row in rows:
            yield f"| `{name}` | {row.reason} |"


def _default(option: Option[Any]) -> object:
    """The default as a user would write it."""
    if option.is_list:
        return None
    written = (text for text, value in option.choices.items() if value == option.default)
    return next(written, option.default)


def _values(option: Option[Any]) -> str:
    if option.choices:
        several = " (several, with commas between them)" if option.is_list else ""
        return ", ".join(f"`{choice}`" for choice in option.choices) + several
    bounds = (("at least", option.at_least), ("above", option.above), ("at most", option.at_most))
    return ", ".join(f"{word} {bound:.15g}" for word, bound in bounds if bound is not None)


def _code(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _class_names() -> Iterator[str]:
    yield "## Class names\n\nSimpleTuner's own copy of the model has other class names; presets may"
    yield "use either.\n\n| SimpleTuner | diffusers, and here |\n| --- | --- |"
    for old, new in CLASS_NAMES.items():
        yield f"| `{old}` | `{new}` |"
    yield ""


def main(argv: Sequence[str]) -> int:
    """Write the page (to ``argv[0]`` where given); 0 on success."""
    target = Path(argv[0]) if argv else PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
