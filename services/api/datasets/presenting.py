"""Rows of datasets as the shapes that tenants see."""

from collections.abc import Sequence
from datetime import UTC, datetime

from services.api.datasets.shapes import (
    Dataset,
    DatasetChange,
    DatasetFile,
    DatasetSource,
    LeftOutRow,
)
from services.api.shapes import ProblemItem, in_utc, known_status
from services.store import imports
from services.store.database import Connection
from services.store.dataset_versions import FileChange
from services.store.datasets import Dataset as DatasetRow
from services.store.datasets import DatasetFile as FileRow
from services.store.imports import Import


def shown_dataset(conn: Connection, row: DatasetRow) -> Dataset:
    """The dataset, with what it is fetched from."""
    return shown_datasets(conn, [row])[0]


def shown_datasets(conn: Connection, rows: Sequence[DatasetRow]) -> list[Dataset]:
    """Datasets of one tenant, in this order."""
    if not rows:
        return []
    found = imports.find(conn, rows[0].tenant_id, [row.dataset_id for row in rows])
    return [_dataset_shape(row, found.get(row.dataset_id)) for row in rows]


def _dataset_shape(row: DatasetRow, source: Import | None) -> Dataset:
    here = f"/v1/datasets/{row.dataset_id}"
    return Dataset(
        id=row.dataset_id,
        name=row.name,
        status=known_status(row.status),
        errors=[ProblemItem(**error) for error in row.errors],
        num_files=row.num_files,
        verified_files=row.verified_files,
        num_left_out=row.num_left_out,
        left_out=[ProblemItem(**each) for each in row.left_out],
        digest=row.digest,
        based_on=row.based_on,
        source=None if source is None else _source_shape(source),
        links={"self": here, "uploads": "/v1/uploads", "complete": f"{here}:complete"},
        created_at=in_utc(row.created_at),
        updated_at=in_utc(row.updated_at),
    )


def _took_s(row: Import) -> float:
    if row.started_at is None:
        return 0.0
    ended = row.finished_at or datetime.now(UTC)
    return max(0.0, (ended - row.started_at).total_seconds())


def _source_shape(row: Import) -> DatasetSource:
    took_s = _took_s(row)
    rows_per_s = bytes_per_s = seconds_left = None
    if took_s > 0 and row.rows_done:
        rows_per_s, bytes_per_s = row.rows_done / took_s, row.fetched_bytes / took_s
        if row.rows_total is not None and row.status == "importing":
            seconds_left = max(0, row.rows_total - row.rows_done) / rows_per_s
    return DatasetSource(
        backend=row.source,
        status=known_status(row.status),
        rows_done=row.rows_done,
        rows_total=row.rows_total,
        pictures=row.pictures,
        left_out=row.left_out,
        left_out_rows=[LeftOutRow(**each) for each in row.left_out_rows],
        fetched_bytes=row.fetched_bytes,
        rows_per_s=rows_per_s,
        bytes_per_s=bytes_per_s,
        seconds_left=seconds_left,
    )


def file_shape(row: FileRow) -> DatasetFile:
    return DatasetFile(
        path=row.path,
        media=row.media,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        width_px=row.width_px,
        height_px=row.height_px,
        left_out=None if row.left_out is None else ProblemItem(pointer=row.path, **row.left_out),
    )


def change_shape(row: FileChange) -> DatasetChange:
    return DatasetChange(
        path=row.path,
        change=row.change,
        media=row.media,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
    )
