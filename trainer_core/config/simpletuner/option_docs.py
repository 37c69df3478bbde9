"""Writes docs/reference/options.md: ``python -m trainer_core.config.simpletuner.option_docs``."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from trainer_core.config.simpletuner.adapter_options import (
    CLASS_NAMES,
    LYCORIS_OPTIONS,
    OVERRIDE_OPTIONS,
    PRESET_OPTIONS,
)
from trainer_core.config.simpletuner.backend_options import BACKEND_OPTIONS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.verdicts import Kind, Table, Verdict

PAGE: Final = Path("docs/reference/options.md")
"""Relative to the root of the repository."""

_HEAD: Final = """\
# Options

<!-- Made by `python -m trainer_core.config.simpletuner.option_docs`; do not edit. -->

Reverie reads SimpleTuner's files as they stand: comments, trailing commas, numbers and booleans as
text (`"false"` is false), names with or without leading dashes. Each option has one verdict; a name
that is not on this page is an error that tells the nearest names. All errors are told at once.

"""
_KINDS: Final[dict[Kind, str]] = {
    "honoured": "These act.",
    "deferred": "These are read, typed and kept in the plan, without effect in this version beyond "
    "what is said here.",
    "superseded": "The run goes on without them; a warning says what does their work.",
    "not_implemented": "These are errors, unless they are given at a value that asks for nothing: "
    "null, false, empty, or as listed.",
    "refused": "These are errors for good.",
}
_TABLES: Final[tuple[tuple[str, Table], ...]] = (
    ("config.json", OPTIONS),
    ("Data backends (multidatabackend.json)", BACKEND_OPTIONS),
    ("LyCORIS config (lycoris_config.json)", LYCORIS_OPTIONS),
    ("LyCORIS config: apply_preset", PRESET_OPTIONS),
    ("LyCORIS config: overrides in module_algo_map and name_algo_map", OVERRIDE_OPTIONS),
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
        for name, v in rows:
            yield f"| `{name}` | {v.type} | {_code(v.default)} | {_values(v)} | {v.reason} |"
    elif kind == "not_implemented":
        yield "| Option | Asks for nothing at | What to do |\n| --- | --- | --- |"
        for name, v in rows:
            yield f"| `{name}` | {', '.join(_code(off) for off in v.off)} | {v.reason} |"
    else:
        yield "| Option | Why |\n| --- | --- |"
        for name, v in rows:
            yield f"| `{name}` | {v.reason} |"


def _values(verdict: Verdict) -> str:
    if verdict.choices:
        several = " (several, with commas between them)" if verdict.is_list else ""
        return ", ".join(f"`{choice}`" for choice in verdict.choices) + several
    bounds = (
        ("at least", verdict.at_least),
        ("above", verdict.above),
        ("at most", verdict.at_most),
    )
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
