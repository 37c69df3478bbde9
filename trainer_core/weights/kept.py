"""Weights in the form that a run computes with, kept on the local disk for the next run.

``<folder>/<key>/`` holds ``weights.safetensors`` and ``manifest.json`` with the size and a CRC-32
of each tensor. A new entry is written to a hidden folder, which is renamed when everything is on
the disk; so a killed process leaves no entry. One process writes at a time. An entry that is
damaged is deleted when that is noticed.
"""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from trainer_core.errors import BaseModelError
from trainer_core.faultpoints import fault_point
from trainer_core.weights.files import KEPT_FILE_NAME
from trainer_core.weights.headers import StoredTensor, header_of, read_header
from trainer_core.weights.transfer import write_tensors

_MANIFEST_NAME: Final = "manifest.json"
_LOCK_NAME: Final = ".lock"
_DRAFT_NAME: Final = ".draft"
_SPARE_BYTES: Final = 2 << 30
"""Disk space that stays free for others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptWeights:
    """A folder of entries."""

    folder: Path
    """Created when it is needed."""
    limit_bytes: int
    """Most bytes of all entries; those that were not read for the longest time are deleted."""

    def find(self, key: str) -> dict[str, StoredTensor] | None:
        """The tensors of an entry, with their checksums; None without a whole entry."""
        entry = self.folder / key
        try:
            manifest = json.loads((entry / _MANIFEST_NAME).read_bytes())
            stored = _checked(read_header(entry / KEPT_FILE_NAME), manifest)
            os.utime(entry)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, BaseModelError):
            self.discard(key)
            return None
        return stored

    def discard(self, key: str) -> None:
        """Delete an entry. A process that is reading it is not disturbed."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def keep(self, key: str, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Write an entry: to the page cache before this returns, to the disk in the background.

        The tensors are not used after the return. Without room, or where the disk fails, nothing is
        kept, and the return value says why; None: the entry is being written.
        """
        size_bytes = sum(tensor.nbytes for tensor in tensors.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = _try_lock(self.folder)
            if lock is None:
                return f"another process is writing to {self.folder}"
            try:
                if (self.folder / key / _MANIFEST_NAME).is_file():  # by another process meanwhile
                    os.close(lock)
                    return None
                draft = self._draft(key, size_bytes)
                manifest = _write(draft, tensors)
            except BaseException:
                os.close(lock)
                raise
        except _NoRoomError as error:
            return str(error)
        except OSError as error:
            return f"{self.folder} cannot be written: {error.strerror}"
        threading.Thread(
            target=_publish,
            args=(draft, manifest, self.folder / key, lock),
            name="keep-weights",
            daemon=True,
        ).start()
        return None

    def _draft(self, key: str, size_bytes: int) -> Path:
        """An empty folder for the new entry, after older ones made room for it."""
        draft = self.folder / _DRAFT_NAME
        shutil.rmtree(draft, ignore_errors=True)  # left by a killed process
        others = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and path.name != key),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in others]
        if size_bytes > self.limit_bytes:
            raise _NoRoomError(f"{size_bytes >> 20} MiB are more than may be kept")
        while others and sum(sizes) + size_bytes > self.limit_bytes:
            shutil.rmtree(others.pop(0))
            sizes.pop(0)
        if shutil.disk_usage(self.folder).free < size_bytes + _SPARE_BYTES:
            raise _NoRoomError(f"the disk of {self.folder} has no room for {size_bytes >> 20} MiB")
        draft.mkdir()
        return draft


class _NoRoomError(Exception):
    """The disk or the limit leaves no room for an entry."""


def _checked(stored: dict[str, StoredTensor], manifest: Any) -> dict[str, StoredTensor]:
    """The tensors with their checksums; raises ValueError where they are not the manifest's."""
    try:
        tensors: dict[str, Any] = manifest["tensors"]
        sizes = {name: facts["size_bytes"] for name, facts in tensors.items()}
        if sizes != {name: each.size_bytes for name, each in stored.items()}:
            raise ValueError("the file does not hold the tensors of the manifest")
        return {
            name: replace(each, crc32=int(tensors[name]["crc32"])) for name, each in stored.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the manifest is not valid") from error


def _write(draft: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write the tensors; the manifest to be written after them. Cleans up where it fails."""
    try:
        file = draft / KEPT_FILE_NAME
        header, places = header_of(tensors, file)
        file.write_bytes(header)
        crc32s = write_tensors(file, places, tensors)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return {
        "tensors": {
            place.name: {"size_bytes": place.size_bytes, "crc32": crc32s[place.name]}
            for place in places
        }
    }


def _publish(draft: Path, manifest: Mapping[str, Any], entry: Path, lock: int) -> None:
    """Make everything durable, then rename. Where it fails, there is no entry."""
    try:
        _sync(draft / KEPT_FILE_NAME)
        fault_point("weights.before_manifest")
        (draft / _MANIFEST_NAME).write_text(json.dumps(manifest), encoding="utf-8")
        _sync(draft / _MANIFEST_NAME)
        _sync(draft)
        fault_point("weights.before_rename")
        shutil.rmtree(entry, ignore_errors=True)
        draft.rename(entry)
        _sync(entry.parent)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(lock)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(folder: Path) -> int | None:
    """The descriptor that holds the folder's lock; None where another process holds it."""
    lock = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
