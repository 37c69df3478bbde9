"""The tenant of the client's key."""

from services.client.call import Call, get
from services.client.tenant_shapes import OwnTenant


def get_own_tenant() -> Call[OwnTenant]:
    """Its name, and its quotas with what is used of them."""
    return get("/v1/tenant")
