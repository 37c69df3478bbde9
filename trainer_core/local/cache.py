"""The shards of a run in a local folder: what is missing is encoded, what is there is kept."""

import contextlib
import fcntl
import gc
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open

from trainer_core.base_models.describe import BaseModel
from trainer_core.data.encode import encode_shard
from trainer_core.data.index import DataIndex, ShardDescription
from trainer_core.data.shards import shard_name
from trainer_core.hidream.warm import WarmEncoders
from trainer_core.progress import Reporter

_STAGE: Final = "caching"
_LOOK_EVERY_S: Final = 0.2


def fill_cache(
    folder: Path,
    index: DataIndex,
    base: BaseModel,
    pictures: Mapping[str, Path],
    *,
    device: torch.device,
    reporter: Reporter,
) -> int:
    """Encode every shard that is not in ``folder`` yet; returns how many those were.

    A shard is named by what goes into it and appears whole or not at all, so runs may share the
    folder and be killed at any point. One process at a time fills it. The encoders are gone from
    memory when this returns.

    Raises:
        BadImageError, ShardCorruptError: a picture changed since it was looked at.
        StopRequestedError: between two pictures or captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, reporter):
        for left in folder.glob(".*.safetensors.*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)
        missing = [shard for shard in index.shards if not _is_whole(folder, shard)]
        if not missing:
            return 0
        encoders = _HeedfulEncoders(base, device, reporter, missing)
        for shard in sorted(missing, key=lambda shard: shard.kind):  # each encoder is loaded once
            encode_shard(encoders, shard.spec, pictures, folder / shard_name(shard.digest))
    del encoders
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return len(missing)


class _HeedfulEncoders(WarmEncoders):
    """Looks at the reporter before each picture and each caption: either may take seconds."""

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


def _is_whole(folder: Path, shard: ShardDescription) -> bool:
    """Whether the file is there and as long as its header says."""
    try:
        with safe_open(folder / shard_name(shard.digest), framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


@contextlib.contextmanager
def _alone(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Wait until no other process fills the folder."""
    with (folder / ".lock").open("a") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    reporter.log(f"waiting for another run that fills {folder}")
                told = True
                reporter.check_control()
                time.sleep(_LOOK_EVERY_S)
            else:
                break
        yield
