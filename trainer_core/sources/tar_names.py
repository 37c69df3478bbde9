"""Names of several tar files: patterns with braces, and what to call each file."""

import hashlib
import re
from collections.abc import Sequence
from itertools import product
from os.path import commonpath
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from trainer_core.config.simpletuner.source_types import is_address
from trainer_core.sources.errors import SourceError

_MAX_TARS: Final = 100_000
_BRACES: Final = re.compile(r"\{([^{}]{1,1000})\}")
_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def expanded_braces(text: str) -> list[str]:
    """``a{00..11}.tar`` and ``{x,y}`` as shells have them; raises SourceError for too many."""
    choices: list[list[str]] = []
    number = 1
    for position, part in enumerate(_BRACES.split(text)):
        choices.append([part] if position % 2 == 0 else _choices(part))
        number *= len(choices[-1])
        if number > _MAX_TARS:
            raise SourceError(f"source names more than {_MAX_TARS:,} tar files")
    return list(dict.fromkeys("".join(each) for each in product(*choices)))


def _choices(part: str) -> list[str]:
    between = _RANGE.fullmatch(part)
    if between is None:
        return part.split(",") if "," in part else [f"{{{part}}}"]
    first, last = int(between[1]), int(between[2])
    if abs(last - first) > _MAX_TARS:
        raise SourceError(f"source names more than {_MAX_TARS:,} tar files")
    step = 1 if first <= last else -1
    return [f"{n:0{len(between[1])}d}" for n in range(first, last + step, step)]


def names_of_addresses(urls: Sequence[str]) -> list[str]:
    """Names that show no query, which may be a secret."""
    paths = [_path_of(url) for url in urls]
    names = names_of_files(paths)
    if len({*names}) == len(names):
        return names
    marks = [hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12] for url in urls]
    return names_of_files([f"{path}-{mark}" for path, mark in zip(paths, marks, strict=True)])


def folder_name(source: str) -> str:
    """What to call the folder of fetched tar files: the last part of where they are."""
    return f"tars-{PurePosixPath(_path_of(source) if is_address(source) else source).name}"


def _path_of(url: str) -> str:
    """Host and path of an address."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or ''}{parts.path}"
    except ValueError:
        return "address"


def names_of_files(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them have."""
    parts = [PurePosixPath(path.lstrip("/")).parts for path in paths]
    shared = commonpath(["/".join(each[:-1]) or "." for each in parts])
    start = len(PurePosixPath(shared).parts)
    return ["/".join(each[start:]) for each in parts]
