"""Secrets, whose values go in and never come out."""

from services.client.call import Call, delete, get, page, part, put
from services.client.shapes import Page
from services.client.tenant_shapes import Secret, SecretKind


def put_secret(name: str, kind: SecretKind, value: str) -> Call[Secret]:
    """Store a secret, or replace its value; it cannot be read again."""
    return put(f"/v1/secrets/{part(name)}", {"kind": kind, "value": value})


def list_secrets(*, limit: int = 20, after: str | None = None) -> Call[Page[Secret]]:
    """Newest first; without their values."""
    return page("/v1/secrets", {"limit": limit, "after": after})


def get_secret(name: str) -> Call[Secret]:
    """What is known of a secret; never its value."""
    return get(f"/v1/secrets/{part(name)}")


def delete_secret(name: str) -> Call[None]:
    """Delete a secret and its value; where an answer was lost, a further try may find nothing."""
    return delete(f"/v1/secrets/{part(name)}")
