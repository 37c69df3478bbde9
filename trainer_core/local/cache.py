"""The shards of a local run: existing ones are kept, missing ones are encoded."""

import contextlib
import fcntl
import gc
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.data.encode import encode_shard
from trainer_core.data.index import DataIndex, ShardDescription
from trainer_core.data.shard_files import damage_of, is_unchanged, read_note, shard_name, write_note
from trainer_core.disk import writing
from trainer_core.hidream.warm import WarmEncoders
from trainer_core.progress import Reporter

_STAGE: Final = "caching"
_TRY_EVERY_S: Final = 0.2


def fill_cache(
    folder: Path,
    index: DataIndex,
    base: BaseModel,
    images: Mapping[str, Path],
    *,
    device: torch.device,
    reporter: Reporter,
) -> int:
    """Encode every shard that is missing or damaged in ``folder``; returns their number.

    A shard is named by the digest of what it is made from, and its file appears complete or not at
    all. So runs can share the folder and can be killed at any point. A file that changed since it
    was written is read and compared with its note; each one is compared again when training opens
    it (``ShardFolder``). Only one process at a time encodes.
    The encoders are released from memory before this returns.

    Args:
        images: SHA-256 → a file with that content.

    Raises:
        BadImageError, ShardCorruptError: an image changed since it was read.
        StopRequestedError: a stop was requested; checked before each image and caption.
        DiskError: the folder cannot be written.
    """
    with writing(folder):
        return _fill(folder, index, base, images, device=device, reporter=reporter)


def _fill(
    folder: Path,
    index: DataIndex,
    base: BaseModel,
    images: Mapping[str, Path],
    *,
    device: torch.device,
    reporter: Reporter,
) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, reporter):
        for unfinished in folder.glob(".*.safetensors.*.tmp"):  # left by a killed process
            unfinished.unlink(missing_ok=True)
        missing = [shard for shard in index.shards if not _is_whole(folder, shard, reporter)]
        if not missing:
            return 0
        encoders = _ReportingEncoders(base, device, reporter, missing)
        for shard in sorted(
            missing, key=lambda shard: shard.kind
        ):  # so that each encoder is loaded once
            _encode(encoders, shard, images, folder / shard_name(shard.digest))
    del encoders
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return len(missing)


def _encode(
    encoders: WarmEncoders, shard: ShardDescription, images: Mapping[str, Path], file: Path
) -> None:
    """Encode a shard; it gets its name after its note, so that a kill leaves none without one."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        sha256 = encode_shard(encoders, shard.spec, images, draft).sha256
        write_note(file, sha256, file=draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    write_note(file, sha256)  # with the times of the file


class _ReportingEncoders(WarmEncoders):
    """Checks for a stop before each image and caption, and reports the progress."""

    def __init__(
        self,
        base: BaseModel,
        device: torch.device,
        reporter: Reporter,
        shards: list[ShardDescription],
    ) -> None:
        super().__init__(base, device)
        self._reporter = reporter
        self._done = 0
        self._total = sum(len(shard.spec.entries) for shard in shards)
        reporter.progress(_STAGE, 0, self._total)

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self._reporter.check_control()
        moments = super().latents(encoder, images_1CHW)
        self._count()
        return moments

    def text(self, encoder: Mapping[str, JsonValue], text: str) -> dict[str, torch.Tensor]:
        self._reporter.check_control()
        embeddings = super().text(encoder, text)
        self._count()
        return embeddings

    def _count(self) -> None:
        self._done += 1
        self._reporter.progress(_STAGE, self._done, self._total)


def _is_whole(folder: Path, shard: ShardDescription, reporter: Reporter) -> bool:
    """Whether the shard is there as it was written; a line says why one is encoded again."""
    file = folder / shard_name(shard.digest)
    if not file.exists():
        return False
    note = read_note(file)
    if note is None:
        reporter.log(f"cache: {file.name} has no checksum and is encoded again")
        return False
    if is_unchanged(file, note):
        return True
    reporter.check_control()
    if (why := damage_of(file, note)) is not None:
        reporter.log(f"cache: {why}; it is encoded again")
        return False
    write_note(file, note.sha256)
    return True


@contextlib.contextmanager
def _locked(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Lock the folder; waits while another process has the lock."""
    with (folder / ".lock").open("a") as lock:
        is_reported = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_reported:
                    reporter.log(f"waiting for another run that is filling {folder}")
                is_reported = True
                reporter.check_control()
                time.sleep(_TRY_EVERY_S)
            else:
                break
        yield
