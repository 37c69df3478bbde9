"""Rows as the shapes that operators see."""

from collections.abc import Mapping

from services.api.admin.shapes import GpuClass, Tenant, TenantSummary, Worker
from services.api.shapes import failure_shape, in_utc
from services.api.usage.presenting import quota_shapes
from services.store.gpu_classes import GpuClass as GpuClassRow
from services.store.quotas import QuotaState
from services.store.tenants import Tenant as TenantRow
from services.store.worker_rows import WorkerRow


def summary_shape(row: TenantRow) -> TenantSummary:
    address = f"/v1/admin/tenants/{row.tenant_id}"
    return TenantSummary(
        id=row.tenant_id,
        name=row.name,
        weight=row.weight,
        links={"self": address, "api_keys": f"{address}/api-keys", "members": f"{address}/members"},
        created_at=in_utc(row.created_at),
    )


def tenant_shape(row: TenantRow, quotas: Mapping[str, QuotaState]) -> Tenant:
    return Tenant(**dict(summary_shape(row)), quotas=quota_shapes(quotas))


def gpu_class_shape(row: GpuClassRow) -> GpuClass:
    return GpuClass(
        id=row.gpu_class,
        price_micros_per_hour=row.price_micros_per_hour,
        currency=row.currency,
        memory_bytes=row.memory_bytes,
        capability=row.capability,
    )


def worker_shape(row: WorkerRow) -> Worker:
    return Worker(
        id=row.worker_id,
        kind=row.kind,
        gpu_class=row.gpu_class,
        version=row.version,
        node=row.node,
        draining=row.draining,
        drain_reason=failure_shape(row.drain_reason),
        run_id=row.run_id,
        started_at=in_utc(row.started_at),
        heartbeat_at=in_utc(row.heartbeat_at),
    )
