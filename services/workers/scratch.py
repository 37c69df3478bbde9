"""Scratch disk of a worker process: a folder for each piece of work, deleted when it is done.

The process holds a file lock in its own folder. The kernel releases the lock when the process dies,
so a folder whose lock is free was left by a dead process. Process ids would not do: containers that
share the disk do not share them.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

log = structlog.get_logger(__name__)

_LOCK_NAME: Final = "lock"
MIN_FREE_BYTES: Final = 64 << 20
"""A worker with less takes no work."""
_MIN_FREE_FILES: Final = 64


class Scratch:
    """``<root>/<worker_id>/``, held by this process."""

    def __init__(self, root: Path, worker_id: str) -> None:
        """Create the folder and delete the folders of dead workers beside it."""
        root.mkdir(parents=True, exist_ok=True)
        self.folder = root / worker_id
        # Otherwise another starting worker could delete our folder before we have locked it.
        root_lock = os.open(root / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(root_lock, fcntl.LOCK_EX)
            _delete_leftovers(root)
            self.folder.mkdir(mode=0o700)
            self._lock = _try_lock(self.folder)
            assert self._lock is not None, "nobody else locks a new folder"
        finally:
            os.close(root_lock)

    def has_space(self, needed_bytes: int = MIN_FREE_BYTES) -> bool:
        """Whether so many bytes are free, and files can be created; a quota is not seen."""
        disk = os.statvfs(self.folder)
        has_inodes = disk.f_files == 0 or disk.f_favail >= _MIN_FREE_FILES  # 0: has no such limit
        return disk.f_bavail * disk.f_frsize >= needed_bytes and has_inodes

    def prove_writable(self) -> None:
        """Write and delete a small file; raises OSError where the disk does not take it."""
        probe = self.folder / "probe"
        with probe.open("wb") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()

    @contextmanager
    def work_folder(self, what: str) -> Iterator[Path]:
        """A new empty folder, deleted at the end of the block."""
        folder = Path(tempfile.mkdtemp(prefix=f"{what}-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _delete_leftovers(root: Path) -> None:
    for folder in root.iterdir():
        if not (folder / _LOCK_NAME).is_file():
            continue  # not a worker's folder
        lock = _try_lock(folder)
        if lock is None:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        log.info("leftovers_deleted", folder=folder.name)


def _try_lock(folder: Path) -> int | None:
    """The descriptor that holds the lock, or None where a running process holds it."""
    lock = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
