"""Writes docs/how-to/come-from-simpletuner.md from the verdicts.

``python -m trainer_core.config.simpletuner.migration_docs``, in the root of the repository.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.presets import OVERRIDE, PRESET
from trainer_core.config.simpletuner.verdicts import Kind, Option, Verdict

PAGE: Final = Path("docs/how-to/come-from-simpletuner.md")
NAMES: Final = Path("tests/golden/simpletuner_names.json")
"""Names, defaults and choices of SimpleTuner's versions; both relative to the repository's root."""

_TABLES: Final[tuple[tuple[str, Mapping[str, Verdict]], ...]] = (
    ("config.json", OPTIONS),
    ("multidatabackend.json", BACKEND_OPTIONS),
    ("lycoris_config.json", {**OVERRIDE.rows, **PRESET.rows, **LYCORIS.rows}),
)
_HEAD: Final = """\
# Coming from SimpleTuner

<!-- Made by `python -m trainer_core.config.simpletuner.migration_docs`; do not edit. -->

Your files work as they are: `config.json`, `lycoris_config.json`, `multidatabackend.json` and a
prompt library, with comments, trailing commas, numbers and booleans as text, with or without
leading dashes. Look at them first; nothing is trained:

```
reverie validate --config config          # what acts differently, in full; the rest as a count
reverie validate --config config --all    # every option that is not simply honoured
reverie train --config config             # or `reverie runs submit`, for the service
```

An option that is not simply honoured is in one of three groups: it *will act differently*, it *has
no effect here*, or it is *taken care of*. It is an error only where the run would differ from what
you asked for, and the message names the way out. This page lists all of that by option, for
SimpleTuner {newest} and its older versions back to {oldest} (names read on {date}).
[Options](../reference/options.md) has every option with its type, default and limits.
"""
_SHOWN_VALUES: Final = 60


def page(root: Path) -> str:
    """The whole page. ``root``: of the repository."""
    names = json.loads((root / NAMES).read_text(encoding="utf-8"))
    versions = names["versions"]
    head = _HEAD.format(newest=versions[-1], oldest=versions[0], date=names["date"])
    parts = (
        head,
        *_section("What acts differently", _different()),
        *_section("Other defaults", _defaults(names["options"])),
        *_section("What is refused, and what to use", _refused()),
        *_section("Values that are not built, and what to use", _values()),
        *_section("Older and second names", _second_names()),
        *_section("What is taken care of", _grouped("handled")),
        *_section("What has no effect here", _grouped("no_effect")),
        *_section("What no longer exists", _grouped("removed")),
    )
    return "\n".join(parts)


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"## {title}\n"
    yield from lines
    yield ""


def _different() -> Iterator[str]:
    yield "| Option | Here |\n| --- | --- |"
    for file, table in _TABLES:
        for name, row in sorted(table.items()):
            if isinstance(row, Option) and row.unlike:
                yield f"| `{name}` ({file}) | {row.unlike} |"
        for reason, found in _by_reason(table, "differs").items():
            yield f"| {_listed(found)} ({file}) | {_sentence(reason)} |"


def _defaults(theirs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "Of options that are not given:\n\n| Option | SimpleTuner | Here |\n| --- | --- | --- |"
    for name, row in sorted(OPTIONS.items()):
        default = theirs.get(name, {}).get("default")
        if not isinstance(row, Option) or row.alias_of or row.default is None or default is None:
            continue
        ours = next((t for t, v in row.choices.items() if v == row.default), row.default)
        if not row.is_list and not _are_equal(default, ours):
            yield f"| `{name}` | `{json.dumps(default)}` | `{json.dumps(ours)}` |"


def _are_equal(theirs: object, ours: object) -> bool:
    """Whether two defaults are the same; a number may be written as text."""
    try:
        return float(str(theirs)) == float(str(ours))
    except ValueError:
        return theirs == ours


def _refused() -> Iterator[str]:
    yield "These are errors, except at a value that requests nothing.\n"
    yield "| Option | What to do |\n| --- | --- |"
    for file, table in _TABLES:
        for kind in ("not_implemented", "refused"):
            for reason, found in _by_reason(table, kind).items():
                yield f"| {_listed(found)} ({file}) | {_sentence(reason)} |"


def _values() -> Iterator[str]:
    yield "| Option | Values | What to use |\n| --- | --- | --- |"
    for file, table in _TABLES:
        for name, row in sorted(table.items()):
            if not isinstance(row, Option) or row.alias_of:
                continue
            instead: dict[str, list[str]] = {}
            for value, nearest in row.known.items():
                instead.setdefault(nearest or " or ".join(row.choices), []).append(value)
            for nearest, values in instead.items():
                shown = ", ".join(f"`{value}`" for value in values[:_SHOWN_VALUES])
                yield f"| `{name}` ({file}) | {shown} | {nearest} |"


def _second_names() -> Iterator[str]:
    yield "| Name | Acts as |\n| --- | --- |"
    for file, table in _TABLES:
        for name, row in sorted(table.items()):
            if isinstance(row, Option) and row.alias_of:
                yield f"| `{name}` ({file}) | `{row.alias_of}` |"


def _grouped(kind: Kind) -> Iterator[str]:
    yield "| Option | Why |\n| --- | --- |"
    for file, table in _TABLES:
        for reason, found in _by_reason(table, kind).items():
            yield f"| {_listed(found)} ({file}) | {_sentence(reason)} |"


def _by_reason(table: Mapping[str, Verdict], kind: Kind) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, row in sorted(table.items()):
        if row.kind == kind:
            reasons.setdefault(row.reason, []).append(name)
    return reasons


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sentence(reason: str) -> str:
    return reason[0].upper() + reason[1:]


def main() -> int:
    """Write the page; 0 on success."""
    PAGE.write_text(page(Path()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
