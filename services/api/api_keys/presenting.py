"""Rows of API keys as the shapes that tenants see."""

from typing import Any

from services.api.api_keys.shapes import ApiKey, NewApiKey
from services.api.shapes import in_utc, in_utc_or_none
from services.domain.audit import Facts
from services.store.api_keys import ApiKey as ApiKeyRow


def key_shape(row: ApiKeyRow, collection: str = "/v1/api-keys") -> ApiKey:
    """``collection``: where keys of this caller are."""
    return ApiKey(**_facts(row, collection))


def new_key_shape(row: ApiKeyRow, secret: str, collection: str = "/v1/api-keys") -> NewApiKey:
    return NewApiKey(**_facts(row, collection), secret=secret)


def _facts(row: ApiKeyRow, collection: str) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "name": row.name,
        "member_id": row.member_id,
        "scopes": row.scopes,
        "expires_at": in_utc_or_none(row.expires_at),
        "last_used_at": in_utc_or_none(row.last_used_at),
        "replaced_by": row.replaced_by,
        "links": {"self": f"{collection}/{row.key_id}"},
        "created_at": in_utc(row.created_at),
    }


def facts_of(row: ApiKeyRow) -> Facts:
    """What the audit log says of a new key."""
    expires_at = None if row.expires_at is None else in_utc(row.expires_at).isoformat()
    return {"member_id": row.member_id, "scopes": row.scopes, "expires_at": expires_at}
