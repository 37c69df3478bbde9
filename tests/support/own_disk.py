"""A small disk for one process: a tmpfs that only the process and its children see."""

import subprocess
from pathlib import Path

import pytest

_NEW_DISK = 'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"'


def own_disk(folder: Path, options: str) -> list[str]:
    """A launcher that mounts a tmpfs with these options on ``folder``, in its own namespace."""
    folder.mkdir()
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c", _NEW_DISK, options, str(folder)]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace")
    return own
