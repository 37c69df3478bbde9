"""Cache shards: one safetensors file named by the digest of its spec.

A latents shard holds `mean` and `std` [N, C, h, w] (fp32, before shift and scale), a text shard
`t5` [N, T, D], `llama` [N, L, T, D] and `pooled` [N, P], a masks shard `mask` [N, 1, h, w] (fp32, 0
to 1, over the cells of its latents); row r belongs to entry r of the spec.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainer_core.data.index import ShardDescription
from trainer_core.data.shard_files import damage_of, read_note, shard_name
from trainer_core.errors import ShardCorruptError, ShardMissingError
from trainer_core.faultpoints import fault_point

TENSORS: Final[Mapping[str, Mapping[str, int]]] = {
    "latents": {"mean": 4, "std": 4},
    "text": {"t5": 3, "llama": 4, "pooled": 2},
    "masks": {"mask": 4},
}
"""Kind of shard → its tensors and their numbers of dimensions."""

_WAIT_POLL_S: Final = 0.05
_OPEN_SHARDS: Final = 64


def write_shard(path: Path, kind: str, tensors: Mapping[str, torch.Tensor]) -> int:
    """Write a shard and return its size in bytes; the file appears complete or not at all.

    Raises ValueError if the tensors are not those of ``kind``, or differ in their number of rows.
    """
    _check_tensors(kind, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fault_point("encode.before_write")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        fault_point("encode.before_rename")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fault_point("encode.after_rename")
    return path.stat().st_size


def _check_tensors(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of rows; raises ValueError if the shapes are not those of the kind."""
    expected = TENSORS[kind]
    if shapes.keys() != expected.keys():
        raise ValueError(f"a {kind} shard holds {sorted(expected)}, not {sorted(shapes)}")
    for name, shape in shapes.items():
        if len(shape) != expected[name]:
            raise ValueError(f"{name} has shape {shape}, not {expected[name]} dimensions")
    rows = {shape[0] for shape in shapes.values()}
    if len(rows) != 1:
        raise ValueError(f"tensors disagree on the rows: {dict(shapes)}")
    return rows.pop()


class ShardFolder:
    """Shards in a local folder that another process fills, read row by row from mapped files.

    Writers rename a finished file to its final name, so an existing shard is complete. A file is
    compared with its note when this process opens it for the first time: all its bytes are read,
    ahead of the step that needs them. At most 64 files are kept open, and deleted ones until the
    next is opened. It serves one thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wait_s: float = 600.0,
        while_waiting: Callable[[ShardDescription], None] | None = None,
    ) -> None:
        """Args:
        wait_s: the longest wait for one shard.
        while_waiting: called about 20 times a second with the missing shard; it may raise to end
            the wait, for example when a stop is requested.
        """
        self._folder = folder
        self._wait_s = wait_s
        self._while_waiting = while_waiting
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._waits_s: list[float] = []
        self._verified: set[tuple[str, int, int]] = set()
        """Digest, inode and mtime of the files that were compared with their notes."""

    @property
    def waited_s(self) -> float:
        """Time in which shards were missing."""
        return sum(self._waits_s)

    def beside(self, while_waiting: Callable[[ShardDescription], None]) -> "ShardFolder":
        """The same folder for another thread, with its own open files; its waits count here too."""
        other = ShardFolder(self._folder, wait_s=self._wait_s, while_waiting=while_waiting)
        other._waits_s = self._waits_s
        other._verified = self._verified
        return other

    def read_row(self, shard: ShardDescription, row: int) -> dict[str, torch.Tensor]:
        """The tensors of one entry, each with a leading dimension of 1; copies, not views.

        Raises:
            IndexError: the spec has no such row.
            ShardMissingError: the file did not appear in time.
            ShardCorruptError: the file is damaged, and is deleted now; or it is not a shard of
                this description.
        """
        if not 0 <= row < len(shard.spec.entries):
            raise IndexError(f"shard {shard.digest} has {len(shard.spec.entries)} rows, not {row}")
        file = self._opened(shard)
        try:
            return {name: file.get_slice(name)[row : row + 1] for name in TENSORS[shard.kind]}
        except SafetensorError as error:
            raise ShardCorruptError(f"shard {shard.digest}, row {row}: {error}") from error

    def is_there(self, shard: ShardDescription) -> bool:
        """Whether the shard exists, so that reading it does not wait."""
        return self._path(shard).is_file()

    def _path(self, shard: ShardDescription) -> Path:
        return self._folder / shard_name(shard.digest)

    def _opened(self, shard: ShardDescription) -> Any:
        if shard.digest in self._open:
            self._open.move_to_end(shard.digest)
            return self._open[shard.digest]
        self._close_deleted()
        self._await(shard)
        self._verify(self._path(shard))
        file = _open_checked(self._path(shard), shard)
        self._open[shard.digest] = file
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return file

    def _verify(self, path: Path) -> None:
        """Compare a file with its note, once; a file without one is taken as it is."""
        facts = path.stat()
        seen = path.stem, facts.st_ino, facts.st_mtime_ns
        note = None if seen in self._verified else read_note(path)
        if note is not None and (why := damage_of(path, note)) is not None:
            path.unlink(missing_ok=True)  # so that it is made, or fetched, anew
            raise ShardCorruptError(
                f"cache shard {why}; it is deleted now, and made anew at the next start"
            )
        self._verified.add(seen)

    def _close_deleted(self) -> None:
        """Give back the disk space of files that their writer has deleted."""
        for digest in tuple(self._open):
            if not (self._folder / shard_name(digest)).exists():
                del self._open[digest]

    def _await(self, shard: ShardDescription) -> None:
        started_s = time.monotonic()
        deadline = started_s + self._wait_s
        while not self.is_there(shard):
            if time.monotonic() >= deadline:
                raise ShardMissingError(
                    f"{shard.kind} shard {shard.digest} did not arrive in {self._wait_s:g} s"
                )
            if self._while_waiting is not None:
                self._while_waiting(shard)
            time.sleep(_WAIT_POLL_S)
        self._waits_s.append(time.monotonic() - started_s)


def _open_checked(path: Path, shard: ShardDescription) -> Any:
    """The mapped file; its header was checked against the description."""
    try:
        file: Any = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
        rows = _check_tensors(shard.kind, shapes)
    except (SafetensorError, OSError, ValueError) as error:
        raise ShardCorruptError(f"shard {shard.digest}: {error}") from error
    if rows != len(shard.spec.entries):
        raise ShardCorruptError(
            f"shard {shard.digest} has {rows} rows, its spec {len(shard.spec.entries)}"
        )
    return file
