"""Rows of publications as the shapes that tenants see."""

from services.api.publications.shapes import Publication
from services.api.shapes import failure_shape, in_utc, known_status
from services.store.publications import Publication as PublicationRow


def publication_shape(row: PublicationRow) -> Publication:
    return Publication(
        id=row.publication_id,
        run_id=row.run_id,
        checkpoint_step=row.checkpoint_step,
        is_automatic=row.is_automatic,
        target=row.target,
        status=known_status(row.status),
        attempts=row.attempts,
        location=row.location,
        revision=row.revision,
        error=failure_shape(row.error),
        links={"self": f"/v1/publications/{row.publication_id}", "run": f"/v1/runs/{row.run_id}"},
        created_at=in_utc(row.created_at),
        updated_at=in_utc(row.updated_at),
    )
