"""The rows of a source from any of them on, for an import that is cut into short tasks.

A position names the next row. The same position gives the same rows in the same order, because it
names the revision of the content, too: a commit, or the digest of a list.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, assert_never

from trainer_core.config.simpletuner.source_types import (
    CsvSource,
    HubSource,
    PictureSource,
    TarSource,
)
from trainer_core.progress import SilentReporter
from trainer_core.sources.csv_list import read_list, rows_of_list
from trainer_core.sources.errors import SourceError
from trainer_core.sources.hub import Commit, newest_commit, picture_rows
from trainer_core.sources.hub_fetching import PictureSplit, open_split
from trainer_core.sources.limits import check_rows, limited
from trainer_core.sources.rows import Row
from trainer_core.sources.shards import Shard, ShardSplit
from trainer_core.sources.surroundings import Surroundings
from trainer_core.sources.tar_fetching import open_tars, revision_of
from trainer_core.sources.tar_places import OnTheWay, find_tars
from trainer_core.web.public_addresses import Network

_MAX_SHARD_BYTES: Final = 4 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The next row of a source."""

    revision: str
    """Of the content: a commit of the Hub, or a digest of a list's rows or of tar files."""
    shard: int = 0
    """Number of the file that the row is in; 0 where each row is a file."""
    row: int = 0
    """Number of the row in it."""
    before: int = 0
    """Rows in the files before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A row, and where it goes on after it."""

    after: Position
    row: Row | None
    """None: the end of a file with many rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Where a source is read."""

    cache: Path
    """Files that are fetched on the way; they may be deleted between two calls."""
    list_file: Path | None
    """The list of a source that has one."""
    allowed: Sequence[Network] = ()
    """Networks that addresses may lead to although they are not public."""
    stopping: threading.Event
    """Gives up downloads under way when it is set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """A source whose rows can be read."""

    start: Position
    total: int | None
    """How many rows there are; None where it is not known."""
    contents: "_List | _Pictures | ShardSplit"


@dataclass(frozen=True, kw_only=True, slots=True)
class _List:
    listed: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pictures:
    commit: Commit
    hub: HubSource
    split: PictureSplit


def open_source(source: PictureSource, revision: str | None, around: Reading) -> OpenSource:
    """Find out what a source has.

    Args:
        source: a list of addresses, a dataset of the Hub, or tar files at addresses or there.
        revision: of an earlier position; None: the newest one.
        around: where it is read.

    Raises SourceError.
    """
    match source.place:
        case CsvSource():
            assert around.list_file is not None
            listed = limited(read_list(around.list_file, source.place, shown="the list"), source)
            own = hashlib.sha256()
            for each in listed.items():
                own.update(json.dumps(each).encode())
            start = Position(revision=own.hexdigest())
            return OpenSource(start=start, total=len(listed), contents=_List(listed=listed))
        case HubSource():
            return _open_hub(source, source.place, revision, around)
        case TarSource():
            return _open_tars(source, source.place, revision, around)
        case _:
            raise SourceError("a folder cannot be imported: push its files")


def _open_tars(
    source: PictureSource, place: TarSource, revision: str | None, around: Reading
) -> OpenSource:
    # Without folders, so that no file of this machine is one of its tar files.
    own = Surroundings(root=around.cache, folders=(), allowed=around.allowed, takes_own_keys=False)
    found = find_tars(place, own, wants_captions=source.wants_captions)
    start = Position(revision=revision_of(found))
    if revision is not None and revision != start.revision:
        raise SourceError("its tar files have changed since the import began: import it again")
    way = OnTheWay(
        folder=around.cache / "tars",
        stopping=around.stopping,
        reporter=SilentReporter(),
        max_bytes=_MAX_SHARD_BYTES,
    )
    split = open_tars(found, source, place, way)
    return OpenSource(start=start, total=None, contents=split)


def _open_hub(
    source: PictureSource, hub: HubSource, revision: str | None, around: Reading
) -> OpenSource:
    if revision is None:
        commit = newest_commit(hub.dataset, hub.revision, hub.token)
    else:
        commit = Commit(name=hub.dataset, sha=revision, token=hub.token)
    split = open_split(
        commit,
        source,
        hub,
        around.cache,
        SilentReporter(),
        allowed=around.allowed,
        stopping=around.stopping,
    )
    start = Position(revision=commit.sha)
    match split:
        case PictureSplit(files=files):
            pictures = _Pictures(commit=commit, hub=hub, split=split)
            return OpenSource(start=start, total=len(files.files), contents=pictures)
        case ShardSplit(total=total, first=first):
            wanted = None if total is None else max(0, total - first)
            return OpenSource(start=start, total=wanted, contents=split)
        case _:
            assert_never(split)


def steps_from(
    opened: OpenSource, source: PictureSource, position: Position, around: Reading
) -> Iterator[Step]:
    """The rows from a position on, read as they are needed.

    Raises SourceError.
    """
    match opened.contents:
        case _List(listed=listed):
            rest = dict(islice(listed.items(), position.row, None))
            rows = rows_of_list(rest, source, around.allowed, around.stopping)
            return _numbered(rows, position)
        case _Pictures(commit=commit, hub=hub, split=split):
            rows = picture_rows(commit, split.files, source, hub, around.cache, first=position.row)
            return _numbered(rows, position)
        case ShardSplit():
            return _steps_of_shards(opened.contents, position)
        case _:
            assert_never(opened.contents)


def rows_done(opened: OpenSource, position: Position) -> int:
    """How many rows of the source are before a position, those included that a filter drops."""
    number = position.before + position.row
    match opened.contents:
        case ShardSplit(first=first, end=end):
            return max(0, (number if end is None else min(number, end)) - first)
        case _List() | _Pictures():
            return number
        case _:
            assert_never(opened.contents)


def _numbered(rows: Iterator[Row], position: Position) -> Iterator[Step]:
    for number, row in enumerate(rows, position.row + 1):
        yield Step(after=replace(position, row=number), row=row)


def _steps_of_shards(split: ShardSplit, position: Position) -> Iterator[Step]:
    """Each file is deleted when its last row is done."""
    for number in range(position.shard, len(split.shards)):
        if split.end is not None and position.before >= split.end:
            return
        file = _fetched(split, split.shards[number])
        opened = split.read(split.shards[number], file, position.before)
        for row_number, row in opened.rows:
            at = position.before + row_number
            if row_number < position.row or at < split.first:
                continue
            if split.end is not None and at >= split.end:
                break
            yield Step(after=replace(position, row=row_number + 1), row=row)
        position = Position(
            revision=position.revision,
            shard=number + 1,
            before=position.before + opened.num_rows,
        )
        yield Step(after=position, row=None)
        file.unlink(missing_ok=True)
        if split.end is None:
            check_rows(position.before)


def _fetched(split: ShardSplit, shard: Shard) -> Path:
    if shard.size_bytes > _MAX_SHARD_BYTES:
        raise SourceError(
            f"{shard.name} has {shard.size_bytes:,} bytes; files of more than "
            f"{_MAX_SHARD_BYTES:,} are not imported: fetch it on your machine with `reverie "
            "datasets push CONFIG --backend ID`"
        )
    return split.fetch(shard)
