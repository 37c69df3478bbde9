"""Local disk of one worker process: a folder for each piece of work, gone when that is over.

The process holds a file lock in its own folder. The kernel drops the lock when the process dies, so
a folder whose lock can be had was left by a dead one; process ids would lie across containers.
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
_MIN_FREE_BYTES: Final = 64 << 20


class Scratch:
    """``<root>/<worker_id>/``, held by this process."""

    def __init__(self, root: Path, worker_id: str) -> None:
        """Make the folder and wipe what dead workers left beside it."""
        root.mkdir(parents=True, exist_ok=True)
        self.folder = root / worker_id
        # Else a starting neighbour could take our folder for a dead one's before it is locked.
        door = os.open(root / ".door", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(door, fcntl.LOCK_EX)
            _wipe_the_dead(root)
            self.folder.mkdir(mode=0o700)
            self._lock = _try_lock(self.folder)
            assert self._lock is not None, "a fresh folder is nobody else's"
        finally:
            os.close(door)

    def has_space(self) -> bool:
        """Whether the disk has room for new work at all: 64 MiB, far less than any work takes."""
        return shutil.disk_usage(self.folder).free >= _MIN_FREE_BYTES

    @contextmanager
    def room(self, what: str) -> Iterator[Path]:
        """An empty folder that is wiped at the end, however that comes."""
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


def _wipe_the_dead(root: Path) -> None:
    for folder in root.iterdir():
        if not (folder / _LOCK_NAME).is_file():
            continue  # nothing of ours
        lock = _try_lock(folder)
        if lock is None:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        log.info("leftovers_wiped", folder=folder.name)


def _try_lock(folder: Path) -> int | None:
    """The descriptor that holds the lock, or None where a living process has it."""
    lock = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
