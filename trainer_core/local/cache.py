"""The cache of a local run: entries that exist are kept, missing ones are encoded."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from trainer_core.data.encode import Encoders, encode_each
from trainer_core.data.entries import write_entry
from trainer_core.data.entry_files import damage_of, entry_name, is_unchanged, trust
from trainer_core.data.index import Caption, DataIndex, Entry
from trainer_core.disk import writing
from trainer_core.folder_lock import locked_folder
from trainer_core.hidream.encoders import LoadedEncoders
from trainer_core.hidream.parts import Parts
from trainer_core.local.unusable import UnusableImagesError
from trainer_core.progress import Reporter

_STAGE: Final = "caching"
_TEXT_ENCODERS: Final = 4


def fill_masks(
    folder: Path, index: DataIndex, images: Mapping[str, Path], reporter: Reporter
) -> None:
    """As ``fill_cache``, only for masks, which need no base model; raises UnusableImagesError."""
    masks = [each for each in index.entries if index.encodings[each.encoding].kind == "masks"]
    if not masks:
        return
    with _open(folder, reporter):
        left = [each for each in masks if not _is_whole(folder, each, reporter)]
        if not left:
            return
        count = _Count(reporter, "checking masks", len(left))
        unusable = _encode(folder, index, left, None, images, count=count)
        count.finish()
    if unusable:
        raise UnusableImagesError(unusable, index)


def fill_cache(
    folder: Path,
    index: DataIndex,
    parts: Parts,
    images: Mapping[str, Path],
    reporter: Reporter,
) -> int:
    """Encode every entry that is missing or damaged in ``folder``; returns their number.

    An entry is named by the digest of what it is made from, and its file appears complete or not at
    all. So runs can share the folder and can be killed at any point. A file that changed since it
    was written is read and compared with its digest; each one is compared again when training reads
    it (``EntryFolder``). Only one process at a time encodes.
    One part of the base model is loaded at a time, and none is any more when this returns.

    Args:
        folder: of the cache.
        index: the run's data.
        parts: of the base model.
        images: SHA-256 → a file with that content.
        reporter: the progress counts images and masks, and each caption once an encoder.

    Raises:
        UnusableImagesError: images cannot be encoded, such as masks that are black on the whole
            crop; raised when all others are.
        ShardCorruptError: an image changed since it was read.
        StopRequestedError: a stop was requested; checked before an encoder gets its next content.
        DiskError: the folder cannot be written.
    """
    with _open(folder, reporter):
        left = [each for each in index.entries if not _is_whole(folder, each, reporter)]
        if not left:
            return 0
        count = _Count(reporter, _STAGE, sum(map(_encoders_of, left)))
        encoders = LoadedEncoders(parts, keeps_all=False, before_each=count.next)
        try:
            unusable = _encode(folder, index, left, encoders, images, count=count)
        finally:
            encoders.free()
        count.finish()
    if unusable:
        raise UnusableImagesError(unusable, index)
    return len(left)


@contextlib.contextmanager
def _open(folder: Path, reporter: Reporter) -> Iterator[None]:
    """The cache's folder, in which no other process writes meanwhile."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(folder, reporter, other="another run that is filling"):
            for unfinished in folder.glob(".*.safetensors.*.tmp"):  # left by a killed process
                unfinished.unlink(missing_ok=True)
            yield


def _encode(
    folder: Path,
    index: DataIndex,
    missing: Sequence[Entry],
    encoders: Encoders | None,
    images: Mapping[str, Path],
    *,
    count: "_Count",
) -> dict[str, str]:
    """Encode missing entries; the digests of images that cannot be, and why."""
    unusable: dict[str, str] = {}
    for position, encoding in enumerate(index.encodings):
        entries = [entry for entry in missing if entry.encoding == position]
        if not entries:
            continue
        contents = [entry.content for entry in entries]
        found = encode_each(encoders, encoding, contents, images)
        for entry, encoded in zip(entries, found, strict=True):
            if isinstance(encoded, str):
                unusable[entry.digest] = encoded
            else:
                write_entry(folder / entry_name(entry.digest), encoded)
            if encoding.kind == "masks":  # they need no encoder
                count.next()
    return unusable


def _encoders_of(entry: Entry) -> int:
    return _TEXT_ENCODERS if isinstance(entry.content, Caption) else 1


class _Count:
    """How much is done, for the reporter."""

    def __init__(self, reporter: Reporter, stage: str, total: int) -> None:
        self._reporter = reporter
        self._stage = stage
        self._total = total
        self._done = 0

    def next(self) -> None:
        """Called before each unit of work; raises StopRequestedError."""
        self._reporter.progress(self._stage, self._done, self._total)
        self._reporter.check_control()
        self._done += 1

    def finish(self) -> None:
        self._reporter.progress(self._stage, self._total, self._total)


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
