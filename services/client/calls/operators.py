"""What operators do; these calls need an operator's key, and all others a tenant's."""

from dataclasses import replace

from services.client.audit_shapes import AuditVerification
from services.client.call import (
    Call,
    delete,
    delete_later,
    get,
    page,
    page_of,
    part,
    patch,
    post,
    put,
)
from services.client.operator_shapes import (
    GpuClass,
    Tenant,
    TenantChanges,
    TenantRequest,
    TenantSummary,
    Worker,
)
from services.client.shapes import Page
from services.client.tenant_shapes import ApiKey, ApiKeyRequest, Deletion, Member, NewApiKey


def list_tenants(*, limit: int = 20, after: str | None = None) -> Call[Page[TenantSummary]]:
    """All tenants, newest first."""
    return page("/v1/admin/tenants", {"limit": limit, "after": after})


def create_tenant(request: TenantRequest) -> Call[Tenant]:
    """A new tenant with one owner; ``create_tenant_key`` makes the owner's first key."""
    return post("/v1/admin/tenants", request)


def get_tenant(tenant_id: str) -> Call[Tenant]:
    """With its quotas and what is used of them."""
    return get(f"/v1/admin/tenants/{part(tenant_id)}")


def change_tenant(tenant_id: str, changes: TenantChanges) -> Call[Tenant]:
    """Set the name, the weight, or some quotas."""
    return patch(f"/v1/admin/tenants/{part(tenant_id)}", changes)


def list_tenant_members(
    tenant_id: str, *, limit: int = 20, after: str | None = None
) -> Call[Page[Member]]:
    """The members of a tenant, newest first."""
    query = {"limit": limit, "after": after}
    return page(f"/v1/admin/tenants/{part(tenant_id)}/members", query)


def list_tenant_keys(
    tenant_id: str, *, limit: int = 20, after: str | None = None
) -> Call[Page[ApiKey]]:
    """The keys of a tenant, newest first, without those that were revoked."""
    query = {"limit": limit, "after": after}
    return page(f"/v1/admin/tenants/{part(tenant_id)}/api-keys", query)


def create_tenant_key(tenant_id: str, request: ApiKeyRequest) -> Call[NewApiKey]:
    """A new key of a tenant; it acts for the first owner unless a member is named."""
    return post(f"/v1/admin/tenants/{part(tenant_id)}/api-keys", request)


def get_tenant_key(tenant_id: str, key_id: str) -> Call[ApiKey]:
    """What a key of a tenant may do, and when it was last used."""
    return get(f"/v1/admin/tenants/{part(tenant_id)}/api-keys/{part(key_id)}")


def revoke_tenant_key(tenant_id: str, key_id: str) -> Call[None]:
    """The key stops working at once."""
    return delete(f"/v1/admin/tenants/{part(tenant_id)}/api-keys/{part(key_id)}")


def list_gpu_classes() -> Call[Page[GpuClass]]:
    """The GPU classes that operators set."""
    return replace(get("/v1/admin/gpu-classes"), read=page_of)


def set_price(
    gpu_class: str,
    *,
    price_micros_per_hour: int,
    currency: str = "USD",
    memory_bytes: int | None = None,
    capability: str | None = None,
) -> Call[GpuClass]:
    """Set the price of a class, for attempts that start from now on, and what a worker of it has.

    Memory and capability (such as ``9.0``) are of one GPU; None leaves them as they are.
    """
    body = {
        "price_micros_per_hour": price_micros_per_hour,
        "currency": currency,
        "memory_bytes": memory_bytes,
        "capability": capability,
    }
    return put(f"/v1/admin/gpu-classes/{part(gpu_class)}", body)


def list_workers(*, limit: int = 20, after: str | None = None) -> Call[Page[Worker]]:
    """The workers that were heard of within a day, newest first."""
    return page("/v1/admin/workers", {"limit": limit, "after": after})


def operator_delete_tenant(tenant_id: str, name: str) -> Call[Deletion]:
    """Delete everything of a tenant; ``name`` confirms it."""
    return delete_later(f"/v1/admin/tenants/{part(tenant_id)}", {"name": name})


def operator_get_deletion(deletion_id: str) -> Call[Deletion]:
    """How far a deletion of any tenant is, and its report."""
    return get(f"/v1/admin/deletions/{part(deletion_id)}")


def operator_verify_audit_events(
    tenant_id: str, *, after: int | None = None
) -> Call[AuditVerification]:
    """Check a part of a tenant's audit log; go on with ``after`` = ``next_after``."""
    return get(f"/v1/admin/tenants/{part(tenant_id)}/audit-events:verify", {"after": after})
