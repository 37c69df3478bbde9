"""Which linear layers a LyCORIS preset names, by lycoris' own rules.

Source: lycoris 4.1.3, ``LycorisNetwork.__init__``: modules are walked from the outside in; a class
target takes every linear below it, a name target the linear of that name; the first match stands.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from trainer_core.config.shapes import LinearShape

_EXPRESSION_PARTS: Final = re.compile(
    r"\\\.|\.\*|\.\+|\.|\^|\$|[A-Za-z0-9_]|(?P<other>.)", re.DOTALL
)
_AS_SHELL: Final = {r"\.": ".", ".*": "*", ".+": "?*", ".": "?", "^": "", "$": ""}

MAX_PATTERN_CHARACTERS: Final = 200


class UnsupportedPatternError(ValueError):
    """A regular expression with more than names, dots and stars."""


def shell_pattern(pattern: str, *, use_fnmatch: bool) -> str:
    """The pattern as a shell pattern for a whole path.

    Regular expressions come from strangers and could take for ever, so only those are taken that
    a shell pattern can say: names, ``.``, ``\\.``, ``.*``, ``.+``, ``^`` first and ``$`` last.
    Raises UnsupportedPatternError for others.
    """
    if use_fnmatch:
        return pattern
    converted = ""
    for part in _EXPRESSION_PARTS.finditer(pattern):
        text = part.group()
        misplaced = (text == "^" and part.start() > 0) or (
            text == "$" and part.end() < len(pattern)
        )
        if part.group("other") or misplaced:
            raise UnsupportedPatternError(pattern)
        converted += _AS_SHELL.get(text, text)
    # An expression is matched from the start and may end anywhere.
    return converted if pattern.endswith("$") else converted + "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What one match asks for."""

    factor: int | None = None
    dim: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A preset in diffusers' class names; patterns as they were written."""

    classes: Sequence[str] = ()
    names: Sequence[str] = ()
    class_overrides: Mapping[str, Target] = field(default_factory=dict)
    name_overrides: Mapping[str, Target] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    use_fnmatch: bool = False

    def matcher(self, patterns: Sequence[str]) -> Callable[[str], bool]:
        """Whether a path is one of the patterns or matches one."""
        tests = [_compiled(p, use_fnmatch=self.use_fnmatch) for p in patterns]
        exact = frozenset(patterns)
        return lambda path: path in exact or any(test.match(path) for test in tests)


@dataclass(frozen=True, slots=True)
class Matched:
    """The linears of a preset, in the model's order."""

    targets: Mapping[str, Target]
    """Path → overrides."""
    unused: tuple[str, ...]
    """Classes and patterns that match no linear."""


def match_preset(preset: Preset, linears: Sequence[LinearShape]) -> Matched:
    """Resolve a preset against the model."""
    name_targets = [*dict.fromkeys((*preset.names, *preset.name_overrides))]
    class_targets = {*preset.classes, *preset.class_overrides}
    is_named, is_excluded = preset.matcher(name_targets), preset.matcher(preset.exclude)
    found: dict[str, Target] = {}
    for linear in linears:
        if is_excluded(linear.path):
            continue
        target = _class_target(linear, class_targets, preset, is_named, is_excluded)
        if target is None and is_named(linear.path):
            target = _name_target(linear, preset)
        if target is not None:
            found[linear.path] = target
    unused = tuple(_unused(preset, linears, name_targets, class_targets))
    return Matched(found, unused)


def _class_target(
    linear: LinearShape,
    class_targets: set[str],
    preset: Preset,
    is_named: Callable[[str], bool],
    is_excluded: Callable[[str], bool],
) -> Target | None:
    """From the outermost module whose class is a target; a module inside with overrides of its own
    class takes precedence below itself. A module that is also named does not count as a class."""
    parts = linear.path.split(".")
    target: Target | None = None
    for depth, class_name in enumerate((*linear.ancestors, linear.module_class)):
        path = ".".join(parts[:depth])
        if is_excluded(path):
            continue
        if target is None:
            if class_name in class_targets and not is_named(path):
                target = preset.class_overrides.get(class_name, Target())
        elif class_name in preset.class_overrides:
            target = preset.class_overrides[class_name]
    return target


def _name_target(linear: LinearShape, preset: Preset) -> Target:
    exact = preset.name_overrides.get(linear.path)
    if exact is not None:
        return exact
    for pattern, target in preset.name_overrides.items():
        if preset.matcher([pattern])(linear.path):
            return target
    return preset.class_overrides.get(linear.module_class, Target())


def _unused(
    preset: Preset,
    linears: Sequence[LinearShape],
    name_targets: Sequence[str],
    class_targets: set[str],
) -> Iterator[str]:
    classes = {name for linear in linears for name in (*linear.ancestors, linear.module_class)}
    yield from sorted(class_targets - classes)
    for pattern in (*name_targets, *preset.exclude):
        matches = preset.matcher([pattern])
        if not any(matches(path) for linear in linears for path in _paths(linear)):
            yield pattern


def _paths(linear: LinearShape) -> Iterator[str]:
    """The path of the linear and of every module around it."""
    parts = linear.path.split(".")
    for depth in range(len(parts), 0, -1):
        yield ".".join(parts[:depth])


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str, *, use_fnmatch: bool) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(shell_pattern(pattern, use_fnmatch=use_fnmatch)))
