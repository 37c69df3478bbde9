"""Rows of datasets as the shapes that tenants see."""

from services.api.datasets.shapes import Dataset
from services.api.shapes import ProblemItem, in_utc, known_status
from services.store.datasets import Dataset as DatasetRow


def dataset_shape(row: DatasetRow) -> Dataset:
    here = f"/v1/datasets/{row.dataset_id}"
    return Dataset(
        id=row.dataset_id,
        name=row.name,
        status=known_status(row.status),
        errors=[ProblemItem(**error) for error in row.errors],
        num_files=row.num_files,
        verified_files=row.verified_files,
        links={"self": here, "uploads": "/v1/uploads", "complete": f"{here}:complete"},
        created_at=in_utc(row.created_at),
        updated_at=in_utc(row.updated_at),
    )
