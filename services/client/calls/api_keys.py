"""API keys of a tenant."""

from services.client.call import Call, delete, get, page, part, post
from services.client.shapes import Page
from services.client.tenant_shapes import ApiKey, ApiKeyRequest, NewApiKey


def list_keys(*, limit: int = 20, after: str | None = None) -> Call[Page[ApiKey]]:
    """Newest first, without those that were revoked."""
    return page("/v1/api-keys", {"limit": limit, "after": after})


def create_key(request: ApiKeyRequest) -> Call[NewApiKey]:
    """A new key; its secret is in this answer and nowhere else."""
    return post("/v1/api-keys", request)


def get_key(key_id: str) -> Call[ApiKey]:
    """What it may do, and when it was last used."""
    return get(f"/v1/api-keys/{part(key_id)}")


def rotate_key(
    key_id: str, *, grace_s: int = 86_400, expires_at: str | None = None
) -> Call[NewApiKey]:
    """A new key in the place of this one; both work for ``grace_s`` more.

    Args:
        expires_at: of the new key; None: it lives as long as the old one was made for.
    """
    body = {"grace_s": grace_s, "expires_at": expires_at}
    return post(f"/v1/api-keys/{part(key_id)}:rotate", body)


def revoke_key(key_id: str) -> Call[None]:
    """The key stops working at once."""
    return delete(f"/v1/api-keys/{part(key_id)}")
