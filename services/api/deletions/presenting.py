"""Rows of deletions as the shapes that tenants and operators see."""

from typing import Final, Literal, cast

from services.api.deletions.shapes import Deletion
from services.api.shapes import in_utc
from services.store.deletions import Deletion as DeletionRow

OF_TENANTS: Final = "/v1/deletions"


def deletion_shape(row: DeletionRow, collection: str = OF_TENANTS) -> Deletion:
    """``collection``: the address of all deletions, for the one who asks."""
    return Deletion(
        id=row.deletion_id,
        kind=row.kind,
        target=row.target,
        status=cast(Literal["pending", "running", "succeeded"], row.status),
        waits_for=row.waits_for,
        report=row.report,
        links={"self": f"{collection}/{row.deletion_id}"},
        created_at=in_utc(row.created_at),
        finished_at=None if row.finished_at is None else in_utc(row.finished_at),
    )
