"""Rows of datasets as the shapes that tenants see."""

from services.api.datasets.shapes import Dataset, DatasetChange, DatasetFile
from services.api.shapes import ProblemItem, in_utc, known_status
from services.store.dataset_versions import FileChange
from services.store.datasets import Dataset as DatasetRow
from services.store.datasets import DatasetFile as FileRow


def dataset_shape(row: DatasetRow) -> Dataset:
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
        links={"self": here, "uploads": "/v1/uploads", "complete": f"{here}:complete"},
        created_at=in_utc(row.created_at),
        updated_at=in_utc(row.updated_at),
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
