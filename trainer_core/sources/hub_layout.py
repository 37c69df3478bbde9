"""Which files of a dataset repository are one split of it, by the conventions of the Hub.

The dataset's card may name them (``configs``); else folders and names with a split's keyword do;
else all files are the split ``train``. Source: the Hub's documentation of datasets, "Data files
configuration" and "File names and splits".
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import re2

from trainer_core.data.formats import IMAGE_SUFFIXES
from trainer_core.sources.errors import SourceError

FileKind = Literal["parquet", "tar", "pictures"]

_KEYWORDS: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORD: Final = re.compile(r"[A-Za-z]+")
_SHARD: Final = re.compile(r"(?:^|/)data/(?P<split>\w+(?:\.\w+)*)-\d{5,}-of-\d{5,}[^/]*\.[a-z]+$")
_SPLIT: Final = re.compile(r"(?P<name>\w[\w.-]*)(?:\[(?P<first>\d{1,9})?:(?P<end>\d{1,9})?\])?")
_METADATA: Final = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SHOWN: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file of one commit."""

    path: str
    size_bytes: int
    oid: str
    """Names the content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows of a split: from ``first`` to before ``end``."""

    split: str
    first: int = 0
    end: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFiles:
    """The files of one split."""

    kind: FileKind
    files: tuple[HubFile, ...]
    metadata: tuple[HubFile, ...] = ()
    """Of pictures: tables with their captions."""
    captions: tuple[HubFile, ...] = ()
    """Of pictures: text files beside them."""


def rows_in(text: str) -> Rows:
    """The rows that a ``split`` names: ``train`` or ``train[:500]``; raises SourceError."""
    found = _SPLIT.fullmatch(text.strip())
    if found is None:
        raise SourceError(
            f"split is {text[:60]}: name one split, and rows of it by their numbers, such as "
            "train[:500] or train[500:1000]"
        )
    end = found["end"]
    return Rows(
        split=found["name"],
        first=int(found["first"] or 0),
        end=None if end is None else int(end),
    )


def files_of_split(
    files: Sequence[HubFile], card: Mapping[str, Any], config: str | None, split: str
) -> SplitFiles:
    """The files of a split, in the order of their names.

    Args:
        files: of the whole repository.
        card: the metadata at the head of its README.md.
        config: a configuration; None: the default one.
        split: such as ``train``.

    Raises:
        SourceError: there is no such configuration or split, or it has no pictures.
    """
    usual = [file for file in files if not _is_hidden(file.path)]
    by_split = _by_card(usual, card, config) or _by_names(usual, config)
    if split not in by_split:
        known = ", ".join(sorted(by_split)[:_SHOWN]) or "none"
        raise SourceError(f"it has no split {split}; its splits: {known}")
    return _sorted_out(by_split[split], usual)


def _by_card(
    files: Sequence[HubFile], card: Mapping[str, Any], config: str | None
) -> dict[str, list[HubFile]]:
    """Split → its files as the card names them; empty where it names none."""
    raw = card.get("configs")
    configs = [each for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []
    if not configs:
        return {}
    chosen = _chosen(configs, config)
    folder = str(chosen.get("data_dir") or "").strip("/")
    patterns = _patterns(chosen.get("data_files"))
    if not patterns:
        inside = [f for f in files if not folder or f.path.startswith(f"{folder}/")]
        return _by_names(inside, None)
    found: dict[str, list[HubFile]] = {}
    for split, pattern in patterns:
        whole = f"{folder}/{pattern}" if folder else pattern
        test = _glob(whole.removeprefix("./"))
        matching = [file for file in files if test.fullmatch(file.path)]
        found.setdefault(split, []).extend(matching)
    return found


def _chosen(configs: Sequence[Mapping[str, Any]], wanted: str | None) -> Mapping[str, Any]:
    names = {str(each.get("config_name")): each for each in configs}
    if wanted is not None:
        if wanted not in names:
            known = ", ".join(list(names)[:_SHOWN])
            raise SourceError(f"it has no configuration {wanted}; set dataset_config to: {known}")
        return names[wanted]
    for each in configs:
        if each.get("default") is True or each.get("config_name") == "default":
            return each
    if len(configs) > 1:
        known = ", ".join(list(names)[:_SHOWN])
        raise SourceError(f"it has several configurations; set dataset_config to one of: {known}")
    return configs[0]


def _patterns(data_files: Any) -> list[tuple[str, str]]:
    """(split, pattern) of a card's ``data_files``."""
    listed = data_files if isinstance(data_files, list) else [data_files]
    found: list[tuple[str, str]] = []
    for each in listed:
        match each:
            case str():
                found.append(("train", each))
            case {"path": path, **rest}:
                paths = path if isinstance(path, list) else [path]
                found += [(str(rest.get("split", "train")), str(p)) for p in paths]
            case _:
                continue
    return found


@functools.lru_cache(maxsize=256)
def _glob(pattern: str) -> Any:
    """A shell pattern of paths as an expression of RE2, whose time is bounded."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern[:500])
    of_part = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re2.compile("".join(of_part.get(part) or re2.escape(part) for part in parts))


def _by_names(files: Sequence[HubFile], config: str | None) -> dict[str, list[HubFile]]:
    """Split → its files, by the keywords in their folders and names."""
    inside = [f for f in files if config is None or f.path.startswith(f"{config}/")]
    if config is not None and not inside:
        raise SourceError(f"it has no folder {config}, which dataset_config names")
    for split_of in (_split_of_shard, _split_of_folder, _split_of_name):
        found: dict[str, list[HubFile]] = {}
        for file in inside:
            split = split_of(file.path)
            if split is not None and _kind_of(file.path) is not None:
                found.setdefault(split, []).append(file)
        if found:
            return found
    return {"train": list(inside)}


def _split_of_shard(path: str) -> str | None:
    found = _SHARD.search(path)
    return None if found is None else found["split"]


def _split_of_folder(path: str) -> str | None:
    return next(
        (split for part in PurePosixPath(path).parts[:-1] if (split := _keyword(part))), None
    )


def _split_of_name(path: str) -> str | None:
    return _keyword(PurePosixPath(path).stem)


def _keyword(text: str) -> str | None:
    words = {word.lower() for word in _WORD.findall(text)}
    return next((split for split, keys in _KEYWORDS.items() if words & set(keys)), None)


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(path).parts)


def _kind_of(path: str) -> FileKind | None:
    name = PurePosixPath(path)
    suffix = name.suffix.lower()
    if name.name.lower() in _METADATA:
        return None
    if suffix == ".parquet":
        return "parquet"
    if suffix == ".tar":
        return "tar"
    return "pictures" if suffix in IMAGE_SUFFIXES else None


def _sorted_out(chosen: Sequence[HubFile], files: Sequence[HubFile]) -> SplitFiles:
    """The files of one kind: rows and archives before single pictures, which may be extras."""
    for kind in ("parquet", "tar", "pictures"):
        found = sorted({f.path: f for f in chosen if _kind_of(f.path) == kind}.items())
        if found:
            kept = tuple(file for _, file in found)
            if kind != "pictures":
                return SplitFiles(kind=kind, files=kept)
            return SplitFiles(
                kind=kind,
                files=kept,
                metadata=tuple(f for f in files if PurePosixPath(f.path).name.lower() in _METADATA),
                captions=tuple(f for f in files if f.path.lower().endswith(".txt")),
            )
    scripts = [f.path for f in files if f.path.endswith(".py")]
    if scripts:
        raise SourceError(
            f"its rows are made by a script ({scripts[0]}), which is never run; the Hub has its "
            "rows as files, too: set revision to refs/convert/parquet"
        )
    raise SourceError("it has no parquet files and no pictures, which are what is read")
