"""A small disk of a process's own, for what happens when it is full."""

import subprocess
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
