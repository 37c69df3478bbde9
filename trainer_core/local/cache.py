"""The cache of a local run: entries that exist are kept, missing ones are encoded."""

import contextlib
import fcntl
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from trainer_core.base_models.describe import BaseModel
from trainer_core.data.encode import encode_entry
from trainer_core.data.entries import write_entry
from trainer_core.data.entry_files import damage_of, entry_name, is_unchanged, trust
from trainer_core.data.index import DataIndex, Entry
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
    """Encode every entry that is missing or damaged in ``folder``; returns their number.

    An entry is named by the digest of what it is made from, and its file appears complete or not at
    all. So runs can share the folder and can be killed at any point. A file that changed since it
    was written is read and compared with its digest; each one is compared again when training reads
    it (``EntryFolder``). Only one process at a time encodes.
    The encoders are released from memory before this returns.

    Args:
        images: SHA-256 → a file with that content.

    Raises:
        BadImageError, ShardCorruptError: an image changed since it was read.
        StopRequestedError: a stop was requested; checked before each image and caption.
        DiskError: the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, reporter):
            for unfinished in folder.glob(".*.safetensors.*.tmp"):  # left by a killed process
                unfinished.unlink(missing_ok=True)
            missing = [each for each in index.entries if not _is_whole(folder, each, reporter)]
            if missing:
                _encode(
                    folder,
                    index,
                    missing,
                    encoders=WarmEncoders(base, device),
                    images=images,
                    reporter=reporter,
                )
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return len(missing)


def _encode(
    folder: Path,
    index: DataIndex,
    missing: Sequence[Entry],
    *,
    encoders: WarmEncoders,
    images: Mapping[str, Path],
    reporter: Reporter,
) -> None:
    reporter.progress(_STAGE, 0, len(missing))
    # Sorted, so that each encoder is loaded once.
    for done, entry in enumerate(sorted(missing, key=lambda each: each.encoding), start=1):
        reporter.check_control()
        encoding = index.encodings[entry.encoding]
        encoded = encode_entry(encoders, encoding, entry.content, images)
        write_entry(folder / entry_name(entry.digest), encoded)
        reporter.progress(_STAGE, done, len(missing))


def _is_whole(folder: Path, entry: Entry, reporter: Reporter) -> bool:
    """Whether the entry is there as it was written; a line says why one is encoded again."""
    file = folder / entry_name(entry.digest)
    try:
        if is_unchanged(file):
            return True
    except FileNotFoundError:
        return False
    reporter.check_control()
    if (why := damage_of(file)) is not None:
        reporter.log(f"cache: {file.name} is damaged ({why}); it is encoded again")
        return False
    trust(file)
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
