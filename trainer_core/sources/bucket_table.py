"""Captions of a bucket's pictures in a table: a file of this machine, or one of its objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.digests import sha256_of
from trainer_core.disk import writing
from trainer_core.paths import find_file, places_of
from trainer_core.sources.bucket_client import Bucket, BucketObject
from trainer_core.sources.errors import RowError, SourceError
from trainer_core.sources.places import SourcePlace
from trainer_core.sources.tables import MAX_TABLE_BYTES, NamedCaptions, read_table


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTable:
    """A table that is there; what it holds is not read yet."""

    at: Path | BucketObject
    token: str
    """Names its content."""


def find_table(bucket: Bucket, source: PictureSource, folders: Sequence[Path]) -> FoundTable | None:
    """The table of a source; None where it has none.

    As in SimpleTuner, its path may be a key of the bucket; a file on this machine comes first.

    Raises SourceError where it is nowhere.
    """
    if source.table is None:
        return None
    path = source.table.path
    if (file := find_file(path, folders)) is not None:
        return FoundTable(at=file, token=sha256_of(file))
    keys = dict.fromkeys((path.removeprefix("/"), f"{bucket.place.prefix}{path}"))
    for key in keys:
        # Of all keys that begin with it, a key itself is the first.
        for found in islice(bucket.objects(key), 1):
            if found.key == key:
                return FoundTable(at=found, token=f"{found.etag}-{found.size_bytes}")
    tried = ", ".join(str(place)[:300] for place in places_of(path, folders))
    raise SourceError(
        f"parquet.path names {path[:200]}, which is in none of these places: {tried}, and no "
        f"object of bucket {bucket.place.bucket}"
    )


def key_of(table: FoundTable | None) -> str | None:
    """The key of a table that is an object; None where it is a file, or there is none."""
    return table.at.key if table is not None and isinstance(table.at, BucketObject) else None


def captions_in(
    bucket: Bucket, found: FoundTable, source: PictureSource, place: SourcePlace
) -> NamedCaptions:
    """Read a table; raises SourceError where it cannot be read."""
    table = source.table
    assert table is not None
    if isinstance(found.at, Path):
        return NamedCaptions(name=found.at.name, table=table, captions=read_table(found.at, table))
    name = PurePosixPath(found.at.key).name
    if found.at.size_bytes > MAX_TABLE_BYTES:
        raise SourceError(
            f"{name} of bucket {bucket.place.bucket} has more than {MAX_TABLE_BYTES:,} bytes"
        )
    place.check_space(found.at.size_bytes)
    file = place.drafts / f"table{PurePosixPath(name).suffix}"
    try:
        with writing(place.folder):
            bucket.read_to(found.at, file, place.stopping)
        return NamedCaptions(name=name, table=table, captions=read_table(file, table))
    except RowError as error:
        raise SourceError(f"{name} of bucket {bucket.place.bucket}: {error}") from error
    finally:
        file.unlink(missing_ok=True)
