"""``caption_filter_list``: what is removed or replaced in captions.

Source: the section "Filtering captions" of SimpleTuner's documentation of data backends.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.patterns import UnsupportedPatternError, expression
from trainer_core.config.simpletuner.reading import Options

MAX_FILTERS: Final = 1000
MAX_FILTER_CHARACTERS: Final = 1000
_MAX_TOGETHER: Final = 100_000
_REPLACES: Final = re.compile(r"s/(?P<search>[^/]+)/(?P<by>[^/]*)(?P<flags>/g?)?", re.DOTALL)
_GROUP: Final = re.compile(r"\\([0-9])")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionFilter:
    """One entry of the list."""

    term: str
    """Text; where an expression is given, that text as it was written."""
    expression: Any
    """Of RE2; None: the term is no regular expression, and stands for itself."""
    replacement: str | None
    """None: what is found is removed, everywhere."""
    replaces_all: bool
    """False: only the first place that is found is replaced."""


def parse_filter(text: str) -> CaptionFilter:
    """An entry: a term, a regular expression, or ``s/search/replacement/``.

    As in SimpleTuner, text that is no regular expression stands for itself.

    Raises UnsupportedPatternError for an expression that only Python's ``re`` knows, such as one
    with look-around; and where the replacement names a group that the expression does not have.
    """
    found = _REPLACES.fullmatch(text)
    if found is None:
        return CaptionFilter(
            term=text, expression=_expression_or_none(text), replacement=None, replaces_all=True
        )
    search, by = found["search"], found["by"]
    compiled = _expression_or_none(search)
    groups = 0 if compiled is None else compiled.groups
    if compiled is not None and any(int(n) > groups for n in _GROUP.findall(by)):
        raise UnsupportedPatternError(text)
    return CaptionFilter(
        term=search, expression=compiled, replacement=by, replaces_all=found["flags"] == "/g"
    )


def _expression_or_none(text: str) -> Any:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None
    return expression(text)


def replaced(entry: CaptionFilter, caption: str) -> str:
    """The caption after one entry of the list."""
    by = entry.replacement
    count = 0 if entry.replaces_all else 1
    if entry.expression is None:
        return caption.replace(entry.term, by or "", count or -1)
    if by is None:
        # A term with a dot or brackets is found as it is written, too.
        return str(entry.expression.sub("", caption.replace(entry.term, "")))
    return str(entry.expression.sub(lambda match: _with_groups(by, match), caption, count))


def _with_groups(template: str, match: Any) -> str:
    return _GROUP.sub(lambda digit: match.group(int(digit[1])) or "", template)


def filters_of(options: Options, value: JsonValue, at: str) -> tuple[str, ...]:
    """The entries of a list; reports its problems.

    ``at``: JSON Pointer to it.
    """
    findings = options.findings
    if value is None or value is False or value in ("", []):
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        message = (
            "caption_filter_list has to be a list of texts, or in a local file the name of a .txt "
            "or .json file, which `reverie runs submit`, `validate` and `train` read."
        )
        findings.problem(at, "bad_value", message)
        return ()
    entries = tuple(dict.fromkeys(str(each) for each in value if each))
    if len(entries) > MAX_FILTERS or sum(map(len, entries)) > _MAX_TOGETHER:
        message = (
            f"caption_filter_list has at most {MAX_FILTERS} entries, with {_MAX_TOGETHER} "
            "characters together."
        )
        findings.problem(at, "bad_value", message)
        return ()
    plain = []
    for position, entry in enumerate(value):
        if why := _why_wrong(str(entry)):
            findings.problem(f"{at}/{position}", "bad_value", why)
        elif entry and parse_filter(str(entry)).expression is None:
            plain.append(str(entry))
    if plain:
        shown = ", ".join(plain[:3])[:200]
        findings.notice(
            "handled",
            "caption_filter_list",
            f"{len(plain)} of its entries are no regular expressions and are taken as plain text, "
            f"as in SimpleTuner: {shown}",
            at,
            options.backend,
        )
    return entries


def _why_wrong(entry: str) -> str | None:
    if len(entry) > MAX_FILTER_CHARACTERS:
        return f"An entry has at most {MAX_FILTER_CHARACTERS} characters, this one {len(entry)}."
    try:
        parse_filter(entry)
    except UnsupportedPatternError:
        return (
            f"{entry[:100]} is no expression that is taken here: RE2, which reads them in bounded "
            "time, has no look-around, no back-reference in a search and no POSIX class, and a "
            "replacement may name only groups of its search. Write it without."
        )
    return None
