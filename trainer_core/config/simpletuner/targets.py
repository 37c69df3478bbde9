"""Finds the linear layers that a LyCORIS preset adapts, by lycoris' rules.

Modules are visited from the outside in. A class target takes every linear layer below it. A name
target takes the linear layer of that name. The first match counts. Source: lycoris 4.1.3,
``LycorisNetwork.__init__``.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from trainer_core.config.plan.shapes import LinearShape
from trainer_core.config.simpletuner.patterns import matcher

MAX_NEAREST: Final = 20
"""At most this many names get a suggestion: finding one takes a millisecond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The overrides of one match; None: as for the whole adapter."""

    factor: int | None = None
    dim: int | None = None
    alpha: float | None = None
    full_matrix: bool | None = None
    decompose_both: bool | None = None
    use_scalar: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A preset in diffusers' class names; patterns as they were written."""

    classes: Sequence[str] = ()
    names: Sequence[str] = ()
    class_overrides: Mapping[str, Target] = field(default_factory=dict)
    name_overrides: Mapping[str, Target] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    use_fnmatch: bool = False


NAMED_PRESETS: Final[Mapping[str, Preset]] = {
    "attn": Preset(classes=("HiDreamAttention",)),
    "attn+shared+ff_t": Preset(
        classes=("HiDreamAttention",), names=("*.shared_experts.*", "*.ff_t.*"), use_fnmatch=True
    ),
    "all-but-experts": Preset(classes=("Linear",), exclude=("*.experts.*",), use_fnmatch=True),
    "all": Preset(classes=("Linear",)),
}
"""Presets by name. ``experts`` are the routed experts. A model may lack parts that they name."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The linear layers of a preset, in the model's order."""

    targets: Mapping[str, Target]
    """Path → overrides."""
    unused: tuple[str, ...]
    """Classes and patterns without any effect on this model."""
    overtaken: tuple[str, ...]
    """Patterns of linear layers that an earlier class target took. Their overrides do not apply to
    these layers, but to those of the next target."""


def match_preset(preset: Preset, linears: Sequence[LinearShape]) -> Matched:
    """The linear layers that a preset adapts; raises UnsupportedPatternError."""
    walk = _Walk(preset, linears)
    walk.run()
    targets = {line.path: walk.found[line.path] for line in linears if line.path in walk.found}
    return Matched(targets, tuple(walk.unused()), tuple(dict.fromkeys(walk.overtaken)))


class _Walk:
    """One pass over all modules of a model."""

    def __init__(self, preset: Preset, linears: Sequence[LinearShape]) -> None:
        self.found: dict[str, Target] = {}
        self.overtaken: list[str] = []
        self._preset = preset
        self._linears = linears
        self._modules: dict[str, str] = {}
        self._below: dict[str, list[LinearShape]] = {}
        for linear in linears:
            self._modules |= dict(linear.walked)
            self._modules[linear.path] = linear.module_class
            for path in _around(linear.path):
                self._below.setdefault(path, []).append(linear)
        self._classes = {*preset.classes, *preset.class_overrides}
        self._names = tuple(dict.fromkeys((*preset.names, *preset.name_overrides)))
        self._hits = {
            pattern: self._matching(pattern) for pattern in {*self._names, *preset.exclude}
        }
        self._named = frozenset[str]().union(*(self._hits[name] for name in self._names))
        self._excluded = frozenset[str]().union(*(self._hits[p] for p in preset.exclude)) - {""}

    def _matching(self, pattern: str) -> frozenset[str]:
        matches = matcher(pattern, use_fnmatch=self._preset.use_fnmatch)
        return frozenset(filter(matches, self._modules))

    def run(self) -> None:
        overrides = self._preset.class_overrides
        by_path = {linear.path for linear in self._linears}
        # As in lycoris, which keeps the overrides of the current match in one variable and does not
        # clear it after a named layer that is already taken. The next match then gets them.
        kept = Target()
        for path, class_name in self._modules.items():
            if path in self._excluded:
                continue
            if class_name in self._classes and path not in self._named:
                kept = overrides.get(class_name, kept)
                self._take_below(path, kept)
            elif path in self._named:
                pattern = self._pattern_with_overrides(path)
                if pattern is not None:
                    kept = self._preset.name_overrides[pattern]
                else:
                    kept = overrides.get(class_name, kept)
                if path in self.found:
                    if pattern is not None:
                        self.overtaken.append(pattern)
                    continue
                if path in by_path:
                    self.found[path] = kept
            else:
                continue
            kept = Target()

    def _take_below(self, root: str, target: Target) -> None:
        """Take every linear layer below a class target. Overrides of an inner class go first."""
        depth = root.count(".") + 1 if root else 0
        for linear in self._below.get(root, ()):
            if linear.path in self._excluded or linear.path in self.found:
                continue
            own = target
            for path, class_name in _inside(linear, depth):
                if path not in self._excluded:
                    own = self._preset.class_overrides.get(class_name, own)
            self.found[linear.path] = own

    def _pattern_with_overrides(self, path: str) -> str | None:
        overrides = self._preset.name_overrides
        if path in overrides:
            return path
        return next((pattern for pattern in overrides if path in self._hits[pattern]), None)

    def unused(self) -> Iterator[str]:
        linears = {linear.path for linear in self._linears}
        with_linears = {
            *(name for linear in self._linears for name in linear.ancestors),
            *(linear.module_class for linear in self._linears),
        }
        yield from sorted(self._classes - with_linears)
        for pattern in self._names:
            # A named module is not taken by its class, which is an effect too.
            if not any(
                path in linears or self._modules[path] in self._classes & with_linears
                for path in self._hits[pattern]
            ):
                yield pattern
        for pattern in self._preset.exclude:
            if not self._hits[pattern] - {""}:
                yield pattern


def _around(path: str) -> Iterator[str]:
    """The model, the modules on the way, and the path itself."""
    parts = path.split(".")
    return (".".join(parts[:depth]) for depth in range(len(parts) + 1))


def _inside(linear: LinearShape, depth: int) -> Iterator[tuple[str, str]]:
    """Path and class of the modules below that depth on the way to a linear, and its own."""
    parts = linear.path.split(".")
    classes = (*linear.ancestors, linear.module_class)
    for inner in range(depth + 1, len(classes)):
        yield ".".join(parts[:inner]), classes[inner]


def nearest(wanted: str, linears: Sequence[LinearShape]) -> str:
    """A sentence with the model's names that are close to one that matches nothing, or empty."""
    close = difflib.get_close_matches(wanted.strip("*.^$"), _known_names(tuple(linears)), n=2)
    return f" Did you mean {' or '.join(close)}?" if close else ""


@functools.lru_cache(maxsize=4)
def _known_names(linears: tuple[LinearShape, ...]) -> tuple[str, ...]:
    """Classes, last parts of paths, and whole paths with stars for numbers."""
    names: dict[str, None] = {}
    for linear in linears:
        names |= dict.fromkeys((*linear.ancestors, linear.module_class))
        parts = re.sub(r"\.\d+(?=\.)", ".*", linear.path).split(".")
        names |= dict.fromkeys(".".join(parts[: i + 1]) for i in range(len(parts)))
        names |= dict.fromkeys(part for part in parts if part != "*" and not part.isdecimal())
    return tuple(names)
