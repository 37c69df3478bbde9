"""Local folders of pictures and captions, looked at once: sizes, digests, what is broken."""

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
from trainer_core.data.captions import (
    MAX_CAPTION_CHARACTERS,
    caption_path,
    captions_of,
    decode_caption,
)
from trainer_core.data.images import SUFFIXES, inspect_image
from trainer_core.data.index import FileItem
from trainer_core.errors import BadCaptionError, BadImageError, Category, TrainerError
from trainer_core.paths import find_folder, places_of
from trainer_core.progress import Reporter

_THREADS: Final = min(8, os.cpu_count() or 1)
_ERRORS_SHOWN: Final = 20
_MAX_CAPTION_BYTES: Final = 4 * MAX_CAPTION_CHARACTERS + 3
"""UTF-8 with a byte-order mark."""


class MissingDataError(TrainerError):
    """A folder of pictures is not where the files say."""

    code = "missing_data"
    category: Category = "user"


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalData:
    """Every picture of a run."""

    items: tuple[FileItem, ...]
    pictures: Mapping[str, Path]
    """SHA-256 → a file with that content."""


def find_data_folders(plan: Plan, folders: Sequence[Path]) -> dict[str, Path]:
    """Backend id → its folder; raises MissingDataError naming all that are missing."""
    found: dict[str, Path] = {}
    missing: list[str] = []
    for backend in plan.identity.backends:
        name = plan.operation.data_dirs[backend.id]
        folder = find_folder(name, folders)
        if folder is None:
            tried = ", ".join(str(place) for place in places_of(name, folders))
            missing.append(
                f"{backend.id}: instance_data_dir names {name}, which is no folder in any of "
                f"these places: {tried}"
            )
        else:
            found[backend.id] = folder
    if missing:
        raise MissingDataError("; ".join(missing))
    return found


def scan(plan: Plan, data_dirs: Mapping[str, Path], notes: Path, reporter: Reporter) -> LocalData:
    """Look into every picture and caption below the folders of the backends.

    Pictures are decoded whole, so that a broken one is named before anything is encoded. What was
    seen is noted in the file ``notes``; a picture of the same size and time is not looked at again.

    Raises:
        BadImageError, BadCaptionError: naming every file that is broken (20 at the most).
    """
    known = _Notes(notes)
    files = [
        (backend, data_dirs[backend.id], path)
        for backend in plan.identity.backends
        for path in _pictures_in(data_dirs[backend.id])
    ]
    found = _Findings()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        looks = pool.map(lambda file: _look(known, *file), files)
        for done, look in enumerate(looks, 1):
            found.take(look)
            reporter.progress("checking pictures", done, len(files))
            reporter.check_control()
    finally:
        pool.shutdown(cancel_futures=True)
        known.save()
    found.raise_errors()
    return LocalData(items=tuple(found.items), pictures=found.pictures)


def _pictures_in(folder: Path) -> list[Path]:
    """Paths relative to the folder, sorted; hidden files and folders are passed over."""
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What is known of one picture's content."""

    sha256: str
    width_px: int
    height_px: int


_Look = tuple[FileItem, Path] | BadImageError | BadCaptionError


def _look(known: "_Notes", backend: Backend, folder: Path, relative: Path) -> _Look:
    path = folder / relative
    name = f"{backend.id}: {path}"
    try:
        facts = known.facts_of(path, name)
        return FileItem(
            backend=backend.id,
            path=relative.as_posix(),
            sha256=facts.sha256,
            width_px=facts.width_px,
            height_px=facts.height_px,
            captions=_captions(backend, folder, relative.as_posix()),
        ), path
    except (BadImageError, BadCaptionError) as error:
        return error


def _captions(backend: Backend, folder: Path, relative: str) -> tuple[str, ...]:
    if backend.role == "mask":
        return ()
    text = None
    if backend.caption_strategy == "textfile":
        file = folder / caption_path(relative)
        try:
            with file.open("rb") as opened:
                body = opened.read(_MAX_CAPTION_BYTES + 1)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BadCaptionError(f"{backend.id}: {file}: {error.strerror}") from error
        else:
            if len(body) > _MAX_CAPTION_BYTES:
                message = f"{backend.id}: {file}: more than {MAX_CAPTION_CHARACTERS} characters"
                raise BadCaptionError(message)
            text = decode_caption(body, name=f"{backend.id}: {file}")
    return captions_of(backend, relative, text)


@dataclass(slots=True)
class _Findings:
    items: list[FileItem] = field(default_factory=list)
    pictures: dict[str, Path] = field(default_factory=dict)
    errors: list[BadImageError | BadCaptionError] = field(default_factory=list)

    def take(self, look: _Look) -> None:
        if isinstance(look, tuple):
            item, path = look
            self.items.append(item)
            self.pictures[item.sha256] = path
        else:
            self.errors.append(look)

    def raise_errors(self) -> None:
        if not self.errors:
            return
        told = [error.message for error in self.errors[:_ERRORS_SHOWN]]
        if len(self.errors) > _ERRORS_SHOWN:
            told.append(f"and {len(self.errors) - _ERRORS_SHOWN} more")
        raise type(self.errors[0])("; ".join(told)) from self.errors[0]


class _Notes:
    """What earlier runs saw of pictures, by path, size and time of change."""

    def __init__(self, path: Path) -> None:
        """A file that cannot be read is as good as none."""
        self._path = path
        self._old: dict[str, Any] = {}
        self._seen: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            read = json.loads(path.read_bytes())
            self._old = read if isinstance(read, dict) else {}

    def facts_of(self, path: Path, name: str) -> _Facts:
        """Raises BadImageError, whose message calls the file ``name``."""
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
        self._seen[key] = [*stamp, facts.sha256, facts.width_px, facts.height_px]
        return facts

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps({**self._old, **self._seen}), encoding="utf-8")
        draft.replace(self._path)


def _facts_of(path: Path, name: str) -> _Facts:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = inspect_image(path, name=name)
    return _Facts(sha256=sha256, width_px=size.width_px, height_px=size.height_px)
