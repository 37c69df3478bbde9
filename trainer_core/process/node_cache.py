"""A folder on a machine's own disk for what a run can make again: 8-bit weights, compiled kernels.

Everything in it may be deleted while nothing runs. It holds nothing of a run or a tenant.
"""

import os
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from pathlib import Path
from typing import Final

from pydantic import Field

from trainer_core.base_models.describe import home_of
from trainer_core.config.plan.frozen import Frozen, digest_of
from trainer_core.errors import Category, TrainerError

_DIR: Final = "REVERIE_NODE_CACHE_DIR"
_BYTES: Final = "REVERIE_NODE_CACHE_BYTES"
_OFF: Final = "off"
_DEFAULT_BYTES: Final = 64 << 30
_COMPILERS: Final = ("torch", "triton")
_NVIDIA: Final = Path("/proc/driver/nvidia")


class NodeCacheSettingError(TrainerError):
    """A variable of the node cache has a wrong value; the message names it."""

    code = "node_cache_setting"
    category = Category.USER


class NodeCache(Frozen):
    """Where the cache is, and how large it may become."""

    folder: str
    """Created when it is needed; need not be writable."""
    limit_bytes: int = Field(gt=0)
    """Most bytes of 8-bit weights. Kernels take a few MiB more."""

    @property
    def weights_dir(self) -> Path:
        return Path(self.folder) / "weights"

    @property
    def kernels_dir(self) -> Path:
        """For kernels of this machine's cards, driver and versions."""
        return Path(self.folder) / "kernels" / _digest_of_machine()


def node_cache_of(env: Mapping[str, str]) -> NodeCache | None:
    """REVERIE_NODE_CACHE_DIR and REVERIE_NODE_CACHE_BYTES; None where the first is ``off``.

    Defaults: ``node-cache`` in REVERIE_HOME, and 64 GiB. Raises NodeCacheSettingError.
    """
    folder, size = env.get(_DIR), env.get(_BYTES)
    if folder == _OFF:
        return None
    if size and not (size.isdecimal() and int(size) > 0):
        raise NodeCacheSettingError(f"{_BYTES} has to be a whole number above zero: {size}")
    path = Path(folder).expanduser() if folder else home_of(env) / "node-cache"
    return NodeCache(folder=str(path.absolute()), limit_bytes=int(size) if size else _DEFAULT_BYTES)


def keep_kernels(cache: NodeCache | None, env: MutableMapping[str, str]) -> None:
    """Let Triton and the CUDA driver keep what they compile in the cache, for this process.

    Variables that are set already stay as they are. Without a cache, or where it cannot be
    written, the defaults below the user's home stay. The driver reads its variable when it is
    initialised, so call this before torch looks for devices.
    """
    if cache is None:
        return
    folder = cache.kernels_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        env.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
        env.setdefault("CUDA_CACHE_PATH", str(folder / "cuda"))


def _digest_of_machine() -> str:
    """Of the cards, the driver, and the versions of the compilers.

    Triton's own keys hold its version and the card's capability, but not the card itself, for which
    measured choices are made.
    """
    cards = sorted(
        line
        for file in _NVIDIA.glob("gpus/*/information")
        for line in _text_of(file).splitlines()
        if line.startswith("Model:")
    )
    versions = [f"{name} {_version_of(name)}" for name in _COMPILERS]
    return digest_of([*versions, _text_of(_NVIDIA / "version"), *cards])[:16]


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
