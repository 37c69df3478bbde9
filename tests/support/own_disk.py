"""A small disk of a process's own, or of a test, for what happens when it is full or goes away."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"'


def own_disk(folder: Path, options: str) -> list[str]:
    """A launcher that mounts a tmpfs at ``folder``, in a namespace of the process.

    Args:
        options: of tmpfs, such as ``size=80m``.
    """
    folder.mkdir(exist_ok=True)
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNT, options, str(folder)]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace")
    return own


@contextlib.contextmanager
def mounted_disk(folder: Path, options: str) -> Iterator[None]:
    """A tmpfs at ``folder`` for all processes, until the end of the block; needs root."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take the disk away, also from processes that use it; they keep their open files."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted disk, such as ``ro``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all that is left of a disk; returns it, to be deleted."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler
