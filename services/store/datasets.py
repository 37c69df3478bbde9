"""Datasets: declared, uploaded, verified; immutable once completed."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import args_row, class_row
from psycopg.sql import SQL

from services.domain.dataset_digest import DigestedFile, digest_of
from services.domain.errors import NotFoundError
from services.domain.ids import new_id
from services.domain.media import Media
from services.store.database import WORK, Connection, columns_of, notify
from trainer_core.data.mask_levels import Lit


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One row of ``datasets``."""

    dataset_id: str
    tenant_id: str
    name: str
    status: str
    """``uploading``, ``verifying``, ``ready`` or ``rejected``."""
    errors: list[dict[str, Any]]
    """Problems as ``{pointer, code, message}``; the pointer is a file's path."""
    num_files: int | None
    """None until it is completed; 0 where it expired and its files are deleted."""
    verified_files: int
    num_left_out: int
    """Verified files that cannot be used."""
    left_out: list[dict[str, Any]]
    """The first of them, as problems."""
    digest: str | None
    """``dataset_digest.digest_of`` its files; None until it is completed, and where that was before
    datasets had digests."""
    based_on: str | None
    """The dataset whose files it took over at the start, which may be deleted by now."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFile:
    """A file that the tenant declares and will upload."""

    path: str
    """Relative, ``/`` separated."""
    media: Media
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFile:
    """One row of ``dataset_files``."""

    path: str
    media: Media
    size_bytes: int
    sha256: str
    width_px: int | None
    """As displayed (EXIF orientation applied); None until verified, and for other files."""
    height_px: int | None
    lit: Lit | None
    """What of an image is above black; None until verified, by versions before, and for others."""
    text: str | None
    """Content of a caption file; None until verified, and for other files."""
    left_out: dict[str, str] | None
    """Why it cannot be used, as ``code`` and ``message``; None where it can, and until verified."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What verification, or an import, found in one file."""

    path: str
    width_px: int | None = None
    height_px: int | None = None
    lit: Lit | None = None
    text: str | None = None
    left_out: dict[str, str] | None = None


_CREATE: Final = """
INSERT INTO datasets (dataset_id, tenant_id, name, status, based_on)
VALUES (%s, %s, %s, 'uploading', %s)
"""
# Rows as JSON: the driver has no faster form that row-level security allows.
_ADD_FILES: Final = """
INSERT INTO dataset_files (dataset_id, tenant_id, path, media, size_bytes, sha256)
SELECT %s, %s, file ->> 0, file ->> 1, (file ->> 2)::bigint, file ->> 3
FROM json_array_elements(%s::json) AS file
"""
_SET_SIZE: Final = SQL("""
UPDATE datasets SET size_bytes = %s WHERE tenant_id = %s AND dataset_id = %s RETURNING {columns}
""").format(columns=columns_of(Dataset))
_ROWS_A_STATEMENT: Final = 1000


def create(
    conn: Connection,
    tenant_id: str,
    name: str,
    files: Iterable[NewFile],
    *,
    based_on: str | None = None,
) -> Dataset:
    """Create a dataset of these files, open for uploads; their paths must be unique.

    ``dataset_versions.take_over`` adds those of the dataset that it is based on.
    """
    dataset_id, size_bytes = new_id("ds"), 0
    conn.execute(_CREATE, (dataset_id, tenant_id, name, based_on))
    left = iter(files)
    while chunk := list(itertools.islice(left, _ROWS_A_STATEMENT)):
        size_bytes += sum(file.size_bytes for file in chunk)
        rows = json.dumps([(f.path, f.media, f.size_bytes, f.sha256) for f in chunk])
        conn.execute(_ADD_FILES, (dataset_id, tenant_id, rows))
    with conn.cursor(row_factory=class_row(Dataset)) as cursor:
        dataset = cursor.execute(_SET_SIZE, (size_bytes, tenant_id, dataset_id)).fetchone()
    assert dataset is not None
    return dataset


_GET: Final = SQL("""
SELECT {columns} FROM datasets
WHERE tenant_id = %s AND dataset_id = %s AND deleted_at IS NULL
""").format(columns=columns_of(Dataset))


def get(conn: Connection, tenant_id: str, dataset_id: str) -> Dataset:
    """Raises NotFoundError, also where the dataset is being deleted."""
    with conn.cursor(row_factory=class_row(Dataset)) as cursor:
        dataset = cursor.execute(_GET, (tenant_id, dataset_id)).fetchone()
    if dataset is None:
        raise NotFoundError("dataset", dataset_id)
    return dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class Usability:
    """Whether runs can use a dataset."""

    dataset_id: str
    status: str
    errors: list[dict[str, Any]]
    """The first problems of a rejected dataset."""


_USABILITY: Final = SQL("""
SELECT dataset_id, status, jsonb_path_query_array(errors, '$[0 to 19]') AS errors
FROM datasets WHERE tenant_id = %s AND dataset_id = ANY(%s) AND deleted_at IS NULL
""")


def usability(conn: Connection, tenant_id: str, dataset_ids: Iterable[str]) -> dict[str, Usability]:
    """Dataset id → whether it can be used, of those that exist."""
    with conn.cursor(row_factory=class_row(Usability)) as cursor:
        found = cursor.execute(_USABILITY, (tenant_id, list(dataset_ids))).fetchall()
    return {each.dataset_id: each for each in found}


_LIST: Final = SQL("""
SELECT {columns} FROM datasets
WHERE tenant_id = %(tenant_id)s AND deleted_at IS NULL
    AND (%(after)s::text IS NULL OR dataset_id < %(after)s)
ORDER BY dataset_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Dataset))


def list_page(
    conn: Connection, tenant_id: str, limit: int, after: str | None = None
) -> list[Dataset]:
    """Newest first; ``after`` is the last id of the page before."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after}
    with conn.cursor(row_factory=class_row(Dataset)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_FIND_FILE: Final = SQL("""
SELECT {columns} FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s AND path = %s
""").format(columns=columns_of(DatasetFile))


def find_file(conn: Connection, tenant_id: str, dataset_id: str, path: str) -> DatasetFile | None:
    """The file with this path; None where the dataset does not list it."""
    with conn.cursor(row_factory=class_row(DatasetFile)) as cursor:
        return cursor.execute(_FIND_FILE, (tenant_id, dataset_id, path)).fetchone()


_ADAPTERS: Final = SQL("""
SELECT {columns} FROM dataset_files
WHERE tenant_id = %s AND dataset_id = %s AND media = 'adapter' ORDER BY path LIMIT %s
""").format(columns=columns_of(DatasetFile))


def adapters(conn: Connection, tenant_id: str, dataset_id: str, limit: int) -> list[DatasetFile]:
    """The first adapter files of a dataset by path."""
    with conn.cursor(row_factory=class_row(DatasetFile)) as cursor:
        return cursor.execute(_ADAPTERS, (tenant_id, dataset_id, limit)).fetchall()


_FILES: Final = SQL("""
SELECT {columns} FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s
ORDER BY path COLLATE "C"
""").format(columns=columns_of(DatasetFile))


def files(conn: Connection, tenant_id: str, dataset_id: str) -> list[DatasetFile]:
    """The files of a dataset by path; raises NotFoundError where there is no such dataset."""
    with conn.cursor(row_factory=class_row(DatasetFile)) as cursor:
        found = cursor.execute(_FILES, (tenant_id, dataset_id)).fetchall()
    if not found:
        get(conn, tenant_id, dataset_id)
    return found


_COUNTS: Final = """
SELECT count(*) FILTER (WHERE media = 'image'), count(*) FILTER (WHERE media = 'caption')
FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s
"""


def count_files(conn: Connection, tenant_id: str, dataset_id: str) -> tuple[int, int]:
    """Images and caption files that are declared."""
    row = conn.execute(_COUNTS, (tenant_id, dataset_id)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


_SET_FACTS: Final = """
UPDATE dataset_files SET width_px = (found ->> 1)::integer, height_px = (found ->> 2)::integer,
    lit = found ->> 3, text = found ->> 4, left_out = (found ->> 5)::jsonb, verified_by = %s
FROM json_array_elements(%s::json) AS found
WHERE tenant_id = %s AND dataset_id = %s AND path = found ->> 0
"""


def set_facts(
    conn: Connection,
    tenant_id: str,
    dataset_id: str,
    facts: Iterable[FileFacts],
    *,
    rules: int | None,
) -> None:
    """Note what was found in files of a dataset.

    ``rules``: the number of the rules that they were verified by; None: they were not.
    """
    found = [(f.path, f.width_px, f.height_px, f.lit, f.text, f.left_out) for f in facts]
    if found:
        conn.execute(_SET_FACTS, (rules, json.dumps(found), tenant_id, dataset_id))


_CAPTION_BYTES: Final = """
SELECT coalesce(sum(caption_bytes), 0) FROM datasets WHERE tenant_id = %s AND dataset_id = ANY(%s)
"""


def caption_bytes(conn: Connection, tenant_id: str, dataset_ids: Sequence[str]) -> int:
    """Bytes of the caption files of completed datasets, as declared."""
    row = conn.execute(_CAPTION_BYTES, (tenant_id, list(dataset_ids))).fetchone()
    assert row is not None
    return int(row[0])


_SIZES: Final = """
SELECT width_px, height_px, count(*) FROM dataset_files
WHERE tenant_id = %s AND dataset_id = %s AND media = 'image' AND width_px IS NOT NULL
GROUP BY width_px, height_px ORDER BY width_px, height_px LIMIT %s
"""


def picture_sizes(
    conn: Connection, tenant_id: str, dataset_id: str, limit: int
) -> list[tuple[int, int, int]]:
    """Width, height and number of the images of each size; at most ``limit`` sizes."""
    return conn.execute(_SIZES, (tenant_id, dataset_id, limit)).fetchall()


# In the collation of the primary key, so that a page is read from its index.
_FILES_PAGE: Final = SQL("""
SELECT {columns} FROM dataset_files
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s
    AND (%(after)s::text IS NULL OR path > %(after)s)
    AND (verified_by IS NULL OR NOT %(unverified)s)
    AND (left_out IS NOT NULL OR NOT %(left_out)s)
ORDER BY path LIMIT %(limit)s
""").format(columns=columns_of(DatasetFile))


def files_page(
    conn: Connection,
    tenant_id: str,
    dataset_id: str,
    limit: int,
    after: str | None = None,
    *,
    unverified: bool = False,
    left_out: bool = False,
) -> list[DatasetFile]:
    """Some files of an existing dataset by path.

    Args:
        after: the last path of the page before.
        unverified: only those that were not verified, in this dataset or the one it is based on.
        left_out: only those that cannot be used.
    """
    facts = {
        "tenant_id": tenant_id,
        "dataset_id": dataset_id,
        "limit": limit,
        "after": after,
        "unverified": unverified,
        "left_out": left_out,
    }
    with conn.cursor(row_factory=class_row(DatasetFile)) as cursor:
        return cursor.execute(_FILES_PAGE, facts).fetchall()


# In the order that the digest is made in, whatever the collation of the database is.
_DIGESTED: Final = """
SELECT path, media, size_bytes, sha256 FROM dataset_files
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s ORDER BY path COLLATE "C"
"""
_COMPLETE: Final = """
UPDATE datasets SET status = 'verifying', digest = %(digest)s, ring_after = clock_timestamp(),
    updated_at = clock_timestamp(), (num_files, caption_bytes) = (
        SELECT count(*), coalesce(sum(size_bytes) FILTER (WHERE media = 'caption'), 0)
        FROM dataset_files
        WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s)
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'uploading'
RETURNING true
"""


def complete(conn: Connection, tenant_id: str, dataset_id: str) -> Dataset:
    """Close the dataset and start its verification. Idempotent. Raises NotFoundError."""
    dataset = get(conn, tenant_id, dataset_id)
    if dataset.status != "uploading":
        return dataset
    facts = {"tenant_id": tenant_id, "dataset_id": dataset_id}
    digest = _digest(conn, facts)
    if conn.execute(_COMPLETE, {**facts, "digest": digest}).fetchone() is not None:
        notify(conn, WORK)
    return get(conn, tenant_id, dataset_id)


def _digest(conn: Connection, facts: dict[str, str]) -> str:
    """The digest of its files, which are read a thousand at a time."""
    with conn.cursor("digested", row_factory=args_row(DigestedFile)) as cursor:
        cursor.itersize = _ROWS_A_STATEMENT
        cursor.execute(_DIGESTED, facts)
        return digest_of(cursor)


_TOUCH: Final = """
UPDATE datasets SET updated_at = clock_timestamp()
WHERE tenant_id = %s AND dataset_id = %s AND status = 'uploading'
    AND updated_at < clock_timestamp() - interval '1 hour'
"""


def touch(conn: Connection, tenant_id: str, dataset_id: str) -> None:
    """Its upload goes on, so that it does not expire; noted once an hour."""
    conn.execute(_TOUCH, (tenant_id, dataset_id))


# A run that another transaction has locked is not waited for: it is looked at after its pause.
_WAKE_RUNS: Final = """
UPDATE runs SET ring_after = clock_timestamp()
WHERE run_id IN (
    SELECT run_id FROM runs
    WHERE tenant_id = %(tenant_id)s AND status = 'queued' AND stage = 'admission'
        AND (start_adapter ->> 'source' = %(dataset_id)s
            OR %(dataset_id)s IN (SELECT jsonb_path_query(datasets, '$.*') #>> '{}'))
    FOR UPDATE SKIP LOCKED)
"""


def wake_runs(conn: Connection, tenant_id: str, dataset_id: str) -> None:
    """The dataset is ready or rejected: runs that wait for it are due."""
    conn.execute(_WAKE_RUNS, {"tenant_id": tenant_id, "dataset_id": dataset_id})
    notify(conn, WORK)
