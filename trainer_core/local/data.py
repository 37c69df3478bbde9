"""Read the images and captions of a local run: sizes, digests, and broken files."""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

from trainer_core.config.plan import Plan
from trainer_core.data.images import inspect_image
from trainer_core.data.index import FileItem
from trainer_core.data.mask_levels import Lit
from trainer_core.data.reading import (
    BackendFolder,
    Broken,
    Reading,
    folder_of,
    listed,
    sort_out,
)
from trainer_core.disk import writing
from trainer_core.errors import BadCaptionError, BadImageError, Category, TrainerError
from trainer_core.local.folder import replace_file
from trainer_core.progress import Reporter

_THREADS: Final = min(8, os.cpu_count() or 1)


class MissingDataError(TrainerError):
    """A folder of images that the files name does not exist."""

    code = "missing_data"
    category: Category = Category.USER


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalData:
    """All images of a run."""

    items: tuple[FileItem, ...]
    images: Mapping[str, Path]
    """SHA-256 → a file with that content."""
    notes: tuple[str, ...]
    """Which files in the folders are not used, and why."""


def find_data_folders(
    plan: Plan, folders: Sequence[Path], fetched: Collection[str] = ()
) -> dict[str, Path]:
    """Backend id → its folder; raises MissingDataError, which lists all missing ones.

    ``fetched``: backends whose folders are made later.
    """
    found: dict[str, Path] = {}
    missing: list[str] = []
    for backend in plan.identity.backends:
        if backend.id in fetched:
            continue
        folder = folder_of(backend, plan.operation.data_dirs[backend.id], folders)
        if isinstance(folder, Path):
            found[backend.id] = folder
        else:
            missing.append(folder)
    if missing:
        raise MissingDataError("; ".join(missing))
    return found


def scan(
    plan: Plan,
    data_dirs: Mapping[str, Path],
    notes: Path,
    reporter: Reporter,
    own: Collection[Path] = (),
) -> LocalData:
    """Read every image and caption in the folders of the backends.

    Images are decoded in full, so that broken ones are told before anything is encoded. They are
    left out with a note. Sizes and digests of the others are stored in the file ``notes``. An image
    whose file size and mtime are unchanged is not read again.

    Args:
        plan: the run.
        data_dirs: backend id → folder.
        notes: a file of this function.
        reporter: gets progress, and can stop the work.
        own: folders that the run writes to, whose files are no data.

    Raises:
        BadImageError, BadCaptionError: more than half of a backend cannot be used; lists the broken
            files, at most 20 of each backend.
    """
    known = _KnownImages(notes)
    backends = plan.identity.backends
    folders = [listed(backend, data_dirs[backend.id], own) for backend in backends]
    files = [(folder, path) for folder in folders for path in folder.files.images]
    facts_of = {each.id: partial(known.facts_of, is_mask=each.role == "mask") for each in backends}
    readings: list[Reading | BadImageError | BadCaptionError] = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        found = pool.map(lambda file: file[0].read(file[1], facts_of[file[0].backend.id]), files)
        for done, reading in enumerate(found, 1):
            readings.append(reading)
            reporter.progress("checking images", done, len(files))
            reporter.check_control()
    finally:
        pool.shutdown(cancel_futures=True)
        known.save()
    return _gathered(folders, readings)


def _gathered(
    folders: Sequence[BackendFolder], readings: Sequence[Reading | BadImageError | BadCaptionError]
) -> LocalData:
    """All images that can be used; raises the error of backends that are mostly broken.

    ``readings`` are in the order of the folders and their images.
    """
    notes: list[str] = []
    ending: list[Broken] = []
    images: list[Reading] = []
    rest = iter(readings)
    for folder in folders:
        good, broken = sort_out(folder, list(islice(rest, len(folder.files.images))))
        if broken is not None and broken.ends_run:
            ending.append(broken)
        elif broken is not None:
            notes += broken.warnings()
        notes += folder.notes(good)
        images += good
    if ending:
        kind = type(ending[0].errors[0])
        raise kind("\n".join(each.message() for each in ending)) from ending[0].errors[0]
    return LocalData(
        items=tuple(each.item for each in images),
        images={each.item.sha256: each.path for each in images},
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What is known of one image."""

    sha256: str
    width_px: int
    height_px: int
    has_more: bool
    lit: Lit | None


class _KnownImages:
    """Digests and sizes of images that earlier runs read, by path, file size and mtime."""

    def __init__(self, path: Path) -> None:
        """``path``: file of the earlier runs; counts as empty if it cannot be read."""
        self._path = path
        self._old: dict[str, Any] = {}
        self._current: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            read = json.loads(path.read_bytes())
            self._old = read if isinstance(read, dict) else {}

    def facts_of(self, path: Path, name: str, *, is_mask: bool) -> _Facts:
        """What is known of an image; raises BadImageError, which names the file as ``name``."""
        try:
            stat = path.stat()
            key, stamp = str(path.absolute()), [stat.st_size, stat.st_mtime_ns]
            facts = self._noted(key, stamp)
            if facts is None or (is_mask and facts.lit is None):
                facts = _facts_of(path, name, is_mask=is_mask)
        except OSError as error:
            raise BadImageError(f"{name}: {error.strerror}") from error
        self._current[key] = [*stamp, *astuple(facts)]
        return facts

    def _noted(self, key: str, stamp: list[int]) -> _Facts | None:
        """What an earlier run noted of a file; None where it did not, or the file has changed."""
        match self._old.get(key):
            case [size, time_ns, str(sha256), int(width), int(height), bool(has_more), *more] if [
                size,
                time_ns,
            ] == stamp:
                lit = more[0] if more and more[0] in get_args(Lit) else None
                return _Facts(
                    sha256=sha256, width_px=width, height_px=height, has_more=has_more, lit=lit
                )
            case _:
                return None

    def save(self) -> None:
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, json.dumps({**self._old, **self._current}))


def _facts_of(path: Path, name: str, *, is_mask: bool) -> _Facts:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = inspect_image(path, name=name, is_mask=is_mask)
    return _Facts(
        sha256=sha256,
        width_px=found.width_px,
        height_px=found.height_px,
        has_more=found.has_more,
        lit=found.lit,
    )
