"""Read the images and captions of a local run: sizes, digests, and broken files."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer_core.config.plan import Backend, Plan
from trainer_core.data.captions import caption_path, read_captions
from trainer_core.data.folder import list_files
from trainer_core.data.images import inspect_image
from trainer_core.data.index import FileItem
from trainer_core.errors import BadCaptionError, BadImageError, Category, TrainerError
from trainer_core.paths import find_folder, places_of
from trainer_core.progress import Reporter

_THREADS: Final = min(8, os.cpu_count() or 1)
_ERRORS_SHOWN: Final = 20


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


def find_data_folders(plan: Plan, folders: Sequence[Path]) -> dict[str, Path]:
    """Backend id → its folder; raises MissingDataError, which lists all missing ones."""
    found: dict[str, Path] = {}
    missing: list[str] = []
    for backend in plan.identity.backends:
        name = plan.operation.data_dirs[backend.id]
        folder = find_folder(name, folders)
        if folder is None:
            tried = ", ".join(str(place) for place in places_of(name, folders))
            missing.append(
                f"{backend.id}: instance_data_dir names {name}, which is not a folder in any "
                f"of these places: {tried}"
            )
        else:
            found[backend.id] = folder
    if missing:
        raise MissingDataError("; ".join(missing))
    return found


def scan(plan: Plan, data_dirs: Mapping[str, Path], notes: Path, reporter: Reporter) -> LocalData:
    """Read every image and caption in the folders of the backends.

    Images are decoded in full, so that broken ones are reported before anything is encoded. Their
    sizes and digests are stored in the file ``notes``. An image whose file size and mtime are
    unchanged is not read again.

    Raises:
        BadImageError, BadCaptionError: lists the broken files, at most 20.
    """
    known = _KnownImages(notes)
    files = [
        (backend, data_dirs[backend.id], path)
        for backend in plan.identity.backends
        for path in list_files(data_dirs[backend.id]).images
    ]
    found = _Findings()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        readings = pool.map(lambda file: _read(known, *file), files)
        for done, reading in enumerate(readings, 1):
            found.add(reading)
            reporter.progress("checking images", done, len(files))
            reporter.check_control()
    finally:
        pool.shutdown(cancel_futures=True)
        known.save()
    found.raise_errors()
    return LocalData(items=tuple(found.items), images=found.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """Digest and size of one image."""

    sha256: str
    width_px: int
    height_px: int


_Reading = tuple[FileItem, Path] | BadImageError | BadCaptionError


def _read(known: "_KnownImages", backend: Backend, folder: Path, relative: str) -> _Reading:
    path = folder / relative
    name = f"{backend.id}: {path}"
    caption_name = f"{backend.id}: {folder / caption_path(relative)}"
    try:
        facts = known.facts_of(path, name)
        return FileItem(
            backend=backend.id,
            path=relative,
            sha256=facts.sha256,
            width_px=facts.width_px,
            height_px=facts.height_px,
            captions=read_captions(backend, folder, relative, name=caption_name),
        ), path
    except (BadImageError, BadCaptionError) as error:
        return error


@dataclass(slots=True)
class _Findings:
    items: list[FileItem] = field(default_factory=list)
    images: dict[str, Path] = field(default_factory=dict)
    errors: list[BadImageError | BadCaptionError] = field(default_factory=list)

    def add(self, reading: _Reading) -> None:
        if isinstance(reading, tuple):
            item, path = reading
            self.items.append(item)
            self.images[item.sha256] = path
        else:
            self.errors.append(reading)

    def raise_errors(self) -> None:
        if not self.errors:
            return
        messages = [error.message for error in self.errors[:_ERRORS_SHOWN]]
        if len(self.errors) > _ERRORS_SHOWN:
            messages.append(f"and {len(self.errors) - _ERRORS_SHOWN} more")
        raise type(self.errors[0])("; ".join(messages)) from self.errors[0]


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

    def facts_of(self, path: Path, name: str) -> _Facts:
        """Digest and size of an image; raises BadImageError, which names the file as ``name``."""
        try:
            stat = path.stat()
            key, stamp = str(path.absolute()), [stat.st_size, stat.st_mtime_ns]
            match self._old.get(key):
                case [size, time_ns, str(sha256), int(width), int(height)] if [
                    size,
                    time_ns,
                ] == stamp:
                    facts = _Facts(sha256=sha256, width_px=width, height_px=height)
                case _:
                    facts = _facts_of(path, name)
        except OSError as error:
            raise BadImageError(f"{name}: {error.strerror}") from error
        self._current[key] = [*stamp, facts.sha256, facts.width_px, facts.height_px]
        return facts

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps({**self._old, **self._current}), encoding="utf-8")
        draft.replace(self._path)


def _facts_of(path: Path, name: str) -> _Facts:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = inspect_image(path, name=name)
    return _Facts(sha256=sha256, width_px=size.width_px, height_px=size.height_px)
