"""Datasets that are made from others: what they take over, and how two datasets differ."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from psycopg.rows import class_row

from services.domain.media import Media
from services.store.database import Connection

_ROWS_A_STATEMENT: Final = 10_000
_PATHS: Final = "SELECT path FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s"


def paths(conn: Connection, tenant_id: str, dataset_id: str) -> Generator[str, None, None]:
    """The paths of a dataset's files in no order, read a thousand at a time."""
    with conn.cursor("paths") as cursor:
        cursor.itersize = 1000
        for (path,) in cursor.execute(_PATHS, (tenant_id, dataset_id)):
            yield path


# What is known of a file comes along, and by which rules it was found.
_TAKE_OVER: Final = """
WITH base AS (
    SELECT * FROM dataset_files
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(base)s AND path > %(after)s
    ORDER BY path LIMIT %(limit)s
), taken AS (
    INSERT INTO dataset_files (dataset_id, tenant_id, path, media, size_bytes, sha256,
        width_px, height_px, lit, text, left_out, verified_by)
    SELECT %(dataset_id)s, tenant_id, path, media, size_bytes, sha256,
        width_px, height_px, lit, text, left_out, verified_by
    FROM base WHERE NOT EXISTS (
        SELECT FROM unnest(%(removed)s::text[]) AS removed (path) WHERE removed.path = base.path)
    ON CONFLICT (dataset_id, path) DO NOTHING
    RETURNING size_bytes
)
SELECT (SELECT max(path) FROM base), (SELECT coalesce(sum(size_bytes), 0) FROM taken)
"""
_ADD_SIZE: Final = """
UPDATE datasets SET size_bytes = size_bytes + %(added)s
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s RETURNING size_bytes
"""


def take_over(
    conn: Connection, tenant_id: str, dataset_id: str, *, base: str, removed: Sequence[str]
) -> int:
    """Add the files of another dataset to an open one; returns the bytes of all its files.

    A path that the open one lists already stays as it is there. Check afterwards, in the same
    transaction, that the other one is not being deleted: then all its files were there.

    Args:
        base: a completed dataset of the tenant.
        removed: paths of it that are not taken over.
    """
    facts: dict[str, Any] = {
        "tenant_id": tenant_id,
        "dataset_id": dataset_id,
        "base": base,
        "removed": list(removed),
        "limit": _ROWS_A_STATEMENT,
    }
    after, size_bytes = "", 0
    while after is not None:
        row = conn.execute(_TAKE_OVER, {**facts, "after": after}).fetchone()
        assert row is not None
        after, added = row
        size_bytes += int(added)
    facts["added"] = size_bytes
    row = conn.execute(_ADD_SIZE, facts).fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """A file that one of two datasets lists otherwise than the other one."""

    path: str
    change: Literal["added", "removed", "changed"]
    media: Media
    """Of the file in the later dataset, and so are the next two; of a removed one in the first."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeCounts:
    """How many files differ between two datasets."""

    added: int
    removed: int
    changed: int
    unchanged: int


_BOTH: Final = """
    (SELECT path, media, size_bytes, sha256 FROM dataset_files
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(before)s AND path > %(after_path)s) AS old
FULL JOIN
    (SELECT path, media, size_bytes, sha256 FROM dataset_files
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(after)s AND path > %(after_path)s) AS new
USING (path)
"""
_DIFFERS: Final = """
(old.media, old.size_bytes, old.sha256) IS DISTINCT FROM (new.media, new.size_bytes, new.sha256)
"""
_CHANGE: Final = """
CASE WHEN old.sha256 IS NULL THEN 'added' WHEN new.sha256 IS NULL THEN 'removed' ELSE 'changed' END
"""
_CHANGES: Final = f"""
SELECT path, {_CHANGE} AS change, coalesce(new.media, old.media) AS media,
    coalesce(new.size_bytes, old.size_bytes) AS size_bytes,
    coalesce(new.sha256, old.sha256) AS sha256
FROM {_BOTH} WHERE {_DIFFERS} ORDER BY path LIMIT %(limit)s
"""  # noqa: S608 - constants
_COUNTS: Final = f"""
SELECT count(*) FILTER (WHERE old.sha256 IS NULL) AS added,
    count(*) FILTER (WHERE new.sha256 IS NULL) AS removed,
    count(*) FILTER (WHERE {_CHANGE} = 'changed' AND {_DIFFERS}) AS changed,
    count(*) FILTER (WHERE NOT {_DIFFERS}) AS unchanged
FROM {_BOTH}
"""  # noqa: S608 - constants


def changes_page(
    conn: Connection, tenant_id: str, before: str, after: str, *, limit: int, after_path: str = ""
) -> list[FileChange]:
    """Some files that two datasets list differently, by path.

    Args:
        before: the first dataset.
        after: the later one.
        after_path: the last path of the page before.
    """
    facts = {**_pair(tenant_id, before, after), "after_path": after_path, "limit": limit}
    with conn.cursor(row_factory=class_row(FileChange)) as cursor:
        return cursor.execute(_CHANGES, facts).fetchall()


def count_changes(conn: Connection, tenant_id: str, before: str, after: str) -> ChangeCounts:
    """Of all files of two datasets."""
    facts = {**_pair(tenant_id, before, after), "after_path": ""}
    with conn.cursor(row_factory=class_row(ChangeCounts)) as cursor:
        counts = cursor.execute(_COUNTS, facts).fetchone()
    assert counts is not None
    return counts


def _pair(tenant_id: str, before: str, after: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "before": before, "after": after}
