"""Sources whose rows come in large files: each is fetched, read, and forgotten.

What a file gave is recorded by its content, so that an unchanged one is not fetched for a newer
revision: its pictures are linked.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from trainer_core.data.formats import CAPTION_SUFFIX
from trainer_core.disk import writing
from trainer_core.progress import Reporter
from trainer_core.sources.limits import check_rows
from trainer_core.sources.places import KnownRow, SourcePlace
from trainer_core.sources.rows import Row, Tally, store_rows

_RECORDS: Final = "shards.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file with many rows."""

    name: str
    oid: str
    """Names its content."""
    size_bytes: int
    """0: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenShard:
    """A shard that was fetched."""

    num_rows: int
    """Altogether, also those that are not taken."""
    rows: Iterator[tuple[int, Row]]
    """Number in the shard, and row; those that a filter drops are left away."""
    fault: str = ""
    """Why it has fewer rows than it was to have; empty where it is whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    num_rows: int
    pictures: int
    left_out: int
    why: tuple[str, ...]
    fault: str = ""
    """Of the shard, as of an ``OpenShard``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSplit:
    """The shards of one source, and how they are read."""

    shards: tuple[Shard, ...]
    fetch: Callable[[Shard], Path]
    """Have a shard on this disk; the same again goes on after an interruption."""
    read: Callable[[Shard, Path, int], OpenShard]
    """Its rows; the last argument is the number of rows in the shards before it."""
    key_of: Callable[[int, str], str]
    """The key of a row by its number in all shards, and its key in an earlier revision."""
    first: int
    end: int | None
    """Rows before this number are taken."""
    total: int | None
    """Rows of all shards, where it is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReader:
    """Where the rows of shards go, and who hears of it."""

    place: SourcePlace
    reporter: Reporter
    tally: Tally
    stage: str
    max_file_bytes: int


def store_shards(split: ShardSplit, reader: ShardReader) -> list[str]:
    """Store the rows of shards, in their order; the faults of shards that are not whole.

    Raises SourceError where they have more rows than are fetched without being asked, and what
    ``store_rows`` raises.
    """
    place, takes_all = reader.place, split.first == 0 and split.end is None
    before = done_bytes = 0
    all_bytes = sum(shard.size_bytes for shard in split.shards)
    records = _records_of(place.folder)
    earlier = {
        oid: record
        for folder in place.earlier_folders
        for oid, record in _records_of(folder).items()
    }
    faults: list[str] = []
    for shard in split.shards:
        if split.end is not None and before >= split.end:
            break
        total = split.total or _guess(before, done_bytes, all_bytes)
        record, old = records.get(shard.oid), earlier.get(shard.oid)
        if record is not None and _has_all(record, place.of_shard(shard.oid)):
            reader.tally.add(_tally_of(record, len(place.of_shard(shard.oid))))
        elif old is not None and takes_all and _has_all(old, place.of_earlier_shard(shard.oid)):
            record = old
            _adopt(shard, before, split, reader, old)
        else:
            record = _store(shard, before, split, reader, total)
            _note(place, shard, record)
        if record.fault:
            faults.append(record.fault)
        before += record.num_rows
        done_bytes += shard.size_bytes
        if split.end is None:
            check_rows(before)
    return faults


def _has_all(record: _Record, rows: Mapping[str, KnownRow]) -> bool:
    return len(rows) >= record.pictures


def _tally_of(record: _Record, pictures: int) -> Tally:
    return Tally(pictures=pictures, left_out=record.left_out, why=list(record.why))


def _guess(before: int, done_bytes: int, all_bytes: int) -> int:
    """How many rows there may be, from those of the first shards."""
    return round(before * all_bytes / done_bytes) if done_bytes else 0


def _store(
    shard: Shard, before: int, split: ShardSplit, reader: ShardReader, total: int
) -> _Record:
    reader.place.check_space(shard.size_bytes)
    file = split.fetch(shard)
    opened = split.read(shard, file, before)
    own = Tally()
    first, end = max(0, split.first - before), None if split.end is None else split.end - before
    wanted = (
        row for number, row in opened.rows if number >= first and (end is None or number < end)
    )
    earlier = reader.tally.pictures + reader.tally.left_out
    store_rows(
        wanted,
        max(total, before + opened.num_rows),
        reader.place,
        reader.reporter,
        own,
        stage=reader.stage,
        max_file_bytes=reader.max_file_bytes,
        done_before=earlier,
    )
    reader.tally.add(own)
    with contextlib.suppress(OSError):
        file.unlink()
    return _Record(
        num_rows=opened.num_rows,
        pictures=own.pictures,
        left_out=own.left_out,
        why=tuple(own.why),
        fault=opened.fault,
    )


def _adopt(
    shard: Shard, before: int, split: ShardSplit, reader: ShardReader, record: _Record
) -> None:
    """Link the pictures of an unchanged shard of an earlier revision."""
    rows = []
    for row in reader.place.of_earlier_shard(shard.oid).values():
        number = int(row.token.rpartition(":")[2])
        captions = row.file.with_suffix(CAPTION_SUFFIX)
        text = captions.read_bytes().decode() if captions.is_file() else None
        rows.append(
            Row(
                key=split.key_of(before + number, row.key),
                token=row.token,
                suffix=row.file.suffix,
                label=f"{shard.name}, row {number}",
                captions=text,
                write=functools.partial(_copy, row.file),
            )
        )
    own = Tally()
    store_rows(
        rows,
        len(rows),
        reader.place,
        reader.reporter,
        own,
        stage=reader.stage,
        max_file_bytes=reader.max_file_bytes,
    )
    reader.tally.add(_tally_of(record, own.pictures))
    _note(reader.place, shard, record)


def _copy(file: Path, to: Path) -> None:
    to.write_bytes(file.read_bytes())


def _note(place: SourcePlace, shard: Shard, record: _Record) -> None:
    line = json.dumps({"oid": shard.oid, **asdict(record)})
    with writing(place.folder), (place.folder / _RECORDS).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _records_of(folder: Path) -> dict[str, _Record]:
    found: dict[str, _Record] = {}
    with contextlib.suppress(OSError), (folder / _RECORDS).open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                read = json.loads(line)
                found[str(read["oid"])] = _Record(
                    num_rows=int(read["num_rows"]),
                    pictures=int(read["pictures"]),
                    left_out=int(read["left_out"]),
                    why=tuple(str(each) for each in read["why"]),
                    fault=str(read.get("fault", "")),
                )
    return found
