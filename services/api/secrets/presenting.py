"""Rows of secrets as the shapes that tenants see."""

from services.api.secrets.shapes import Secret
from services.api.shapes import in_utc, in_utc_or_none, known_status
from services.store.secrets import Secret as SecretRow


def secret_shape(row: SecretRow) -> Secret:
    return Secret(
        id=row.secret_id,
        name=row.name,
        kind=known_status(row.kind),
        version=row.version,
        warning=row.warning,
        links={"self": f"/v1/secrets/{row.name}"},
        created_at=in_utc(row.created_at),
        updated_at=in_utc(row.updated_at),
        last_used_at=in_utc_or_none(row.last_used_at),
    )
