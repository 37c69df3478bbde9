"""Publish into a folder of this machine: ``<publications>/<tenant_id>/<run_id>/``."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from services.objects.errors import InvalidKeyError, ObjectStoreDownError
from services.objects.keys import check_key
from services.objects.local_files import sha256_of
from services.results.targets.port import (
    PublicationRefusedError,
    PublicationRepo,
    Published,
    TargetDownError,
)
from trainer_core.errors import Category
from trainer_core.process.failure import Failure


class FolderTarget:
    """A ``PublicationTarget`` below one root, which is made where it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def publish(
        self,
        repo: PublicationRepo,
        files: Path,
        message: str,  # noqa: ARG002  # a folder has no history to put it in
    ) -> Published:
        """See ``PublicationTarget``; the revision is a digest of names and contents."""
        try:
            place = self._root.joinpath(*check_key(repo.name))
        except InvalidKeyError as error:
            raise PublicationRefusedError(_refused(str(error))) from error
        revision = _revision_of(files)
        try:
            if not place.is_dir() or _revision_of(place) != revision:
                _replace(place, files)
        except OSError as error:
            raise TargetDownError(_down(error)) from error
        return Published(location=str(place), revision=revision)

    def of_tenant(self, tenant_id: str) -> list[Path]:
        """The folders with all that was published of a tenant."""
        place = self._root / tenant_id
        return [place] if place.is_dir() else []

    def of_run(self, tenant_id: str, run_id: str) -> list[Path]:
        """The folders with the result and the checkpoints of one run.

        With what a process that was killed has left. Nothing may publish meanwhile.
        """
        place = self._root / tenant_id
        ours = (f"{run_id}-", f".{run_id}.", f".{run_id}-")
        return [
            each
            for each in (place.iterdir() if place.is_dir() else ())
            if each.name == run_id or each.name.startswith(ours)
        ]


def files_and_bytes(folders: Sequence[Path]) -> tuple[int, int]:
    """How many files are below these folders, and their bytes."""
    sizes = [path.stat().st_size for folder in folders for path in _files_below(folder)]
    return len(sizes), sum(sizes)


def remove(folders: Sequence[Path]) -> None:
    """Delete these folders. Raises ObjectStoreDownError where that cannot be done now."""
    try:
        for folder in folders:
            shutil.rmtree(folder)
    except OSError as error:
        raise ObjectStoreDownError(f"publications: {error.strerror}") from error


def _replace(place: Path, files: Path) -> None:
    """Replace ``place`` with a full copy; if this process is killed, the next try repairs it.

    Of two at the same time one may fail.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    # No id starts with a dot, so these names never collide with a publication.
    for leftover in place.parent.glob(f".{place.name}.*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    incoming = place.with_name(f".{place.name}.{secrets.token_hex(8)}.new")
    outgoing = incoming.with_suffix(".old")
    try:
        shutil.copytree(files, incoming)
        for path in _files_below(incoming):
            _sync(path)
        if place.exists():
            place.rename(outgoing)
        incoming.rename(place)
        _sync(place.parent)
    finally:
        for leftover in (incoming, outgoing):
            shutil.rmtree(leftover, ignore_errors=True)


def _revision_of(folder: Path) -> str:
    """SHA-256 over the names and digests of all files."""
    listing = {str(path.relative_to(folder)): sha256_of(path) for path in _files_below(folder)}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(why: str) -> Failure:
    return Failure(
        code="bad_publication_name", category=Category.USER, message=why, retryable=False
    )


def _down(error: OSError) -> Failure:
    return Failure(
        code="publications_folder_down",
        category=Category.INFRA,
        message=f"The folder for publications cannot be written: {error.strerror}.",
        retryable=True,
    )
