"""Every route of the API: the scope that it needs, and how to ask for an object through it.

A new route needs a row here; ``test_every_route`` fails without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.support.service import run_request

Ids = dict[str, str]
"""Name of a path parameter → the id of an object."""
NOBODYS: Final[Ids] = {
    "run_id": "run_" + "0" * 32,
    "dataset_id": "ds_" + "0" * 32,
    "batch_id": "bat_" + "0" * 32,
    "publication_id": "pub_" + "0" * 32,
    "deletion_id": "del_" + "0" * 32,
    "member_id": "mem_" + "0" * 32,
    "key_id": "key_" + "0" * 32,
    "tenant_id": "ten_" + "0" * 32,
    "worker_key_id": "key_" + "0" * 32,
    "webhook_id": "wh_" + "0" * 32,
    "delivery_id": "whd_" + "0" * 32,
    "gpu_class": "no-such-class",
    "name": "nobodys",
    "path": "result/card.json",
}
WHO: Final = {
    "runs:read": {"owner", "member", "viewer", "billing"},
    "runs:write": {"owner", "member"},
    "datasets:read": {"owner", "member", "viewer"},
    "datasets:write": {"owner", "member"},
    "publications:read": {"owner", "member", "viewer"},
    "publications:write": {"owner", "member"},
    "secrets:read": {"owner", "member"},
    "secrets:write": {"owner"},
    "webhooks:read": {"owner", "member"},
    "webhooks:write": {"owner", "member"},
    "keys:read": {"owner", "member"},
    "keys:write": {"owner", "member"},
    "members:read": {"owner", "member", "viewer", "billing"},
    "members:write": {"owner"},
    "usage:read": {"owner", "member", "viewer", "billing"},
    "audit:read": {"owner"},
    "tenant:write": {"owner"},
}
"""Scope → the roles that have it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A route, asked with ids of the caller's own objects, of another tenant's, or of none."""

    scope: str | None
    """None: the route needs no key. ``operator``: it needs an operator's."""
    own: int
    """Status for the caller's own object."""
    absent: int = 404
    """Status for an object of another tenant, and for one that does not exist."""
    body: Callable[[Ids], Any] = lambda _: None
    query: Callable[[Ids], dict[str, str]] = lambda _: {}


def lists(scope: str) -> Row:
    """The route names no object, and shows the caller's own."""
    return Row(scope=scope, own=200, absent=200)


def creates(scope: str) -> Row:
    """The route names no object, and makes one; it is asked with an empty body."""
    return Row(scope=scope, own=422, absent=422, body=lambda _: {})


def reads(scope: str, *, own: int = 200) -> Row:
    """The route shows the object of its address."""
    return Row(scope=scope, own=own)


def acts(scope: str, own: int, body: Callable[[Ids], Any] = lambda _: {}) -> Row:
    """The route changes the object that its address or its body names."""
    return Row(scope=scope, own=own, body=body)


def _new_run(ids: Ids) -> Any:
    return run_request(dict.fromkeys(("photos", "held-out"), ids["dataset_id"]))


ROUTES: Final[dict[str, Row]] = {
    "GET /healthz": Row(scope=None, own=200, absent=200),
    "GET /readyz": Row(scope=None, own=200, absent=200),
    "GET /v1/datasets": lists("datasets:read"),
    "POST /v1/datasets": creates("datasets:write"),
    "GET /v1/datasets/{dataset_id}": reads("datasets:read"),
    "GET /v1/datasets/{dataset_id}/files": reads("datasets:read"),
    "GET /v1/datasets/{dataset_id}/diff": Row(
        scope="datasets:read", own=200, query=lambda ids: {"against": ids["dataset_id"]}
    ),
    "POST /v1/datasets/{dataset_id}:complete": acts("datasets:write", 202),
    "POST /v1/uploads": acts("datasets:write", 409, lambda ids: {"dataset_id": ids["dataset_id"]}),
    "POST /v1/uploads/parts": acts(
        "datasets:write",
        409,
        lambda ids: {"dataset_id": ids["dataset_id"], "path": "a.jpg", "sha256": ["0" * 64]},
    ),
    "POST /v1/uploads/parts:abort": acts(
        "datasets:write", 409, lambda ids: {"dataset_id": ids["dataset_id"], "path": "a.jpg"}
    ),
    "GET /v1/runs": lists("runs:read"),
    "POST /v1/runs": Row(scope="runs:write", own=201, absent=422, body=_new_run),
    "POST /v1/runs:validate": Row(scope="runs:read", own=200, absent=200, body=_new_run),
    "POST /v1/runs/{run_id}:clone": acts("runs:write", 201),
    "GET /v1/runs/{run_id}/diff": Row(
        scope="runs:read", own=200, query=lambda ids: {"against": ids["run_id"]}
    ),
    "GET /v1/runs/{run_id}": reads("runs:read"),
    "GET /v1/runs/{run_id}/plan": reads("runs:read"),
    "GET /v1/runs/{run_id}/events": reads("runs:read"),
    "GET /v1/runs/{run_id}/checkpoints": reads("runs:read"),
    "GET /v1/runs/{run_id}/attempts": reads("runs:read"),
    "GET /v1/runs/{run_id}/logs": reads("runs:read"),
    "GET /v1/runs/{run_id}/metrics": reads("runs:read"),
    "GET /v1/runs/{run_id}/samples": reads("runs:read"),
    "GET /v1/runs/{run_id}/preview": reads("runs:read", own=404),  # it samples no picture
    "GET /v1/runs/{run_id}/artifacts": reads("runs:read"),
    "GET /v1/runs/{run_id}/artifacts/{path}": reads("runs:read", own=404),  # it has no result
    "GET /v1/runs/{run_id}/result": reads("runs:read", own=404),
    "PATCH /v1/runs/{run_id}": acts("runs:write", 200, lambda _: {"priority": "high"}),
    "POST /v1/runs/{run_id}:pause": acts("runs:write", 202),
    "POST /v1/runs/{run_id}:resume": acts("runs:write", 202),
    "POST /v1/runs/{run_id}:cancel": acts("runs:write", 202),
    "GET /v1/batches": lists("runs:read"),
    "POST /v1/batches": Row(
        scope="runs:write", own=201, absent=422, body=lambda ids: {"runs": [_new_run(ids)]}
    ),
    "GET /v1/batches/{batch_id}": reads("runs:read"),
    "GET /v1/batches/{batch_id}/compare": reads("runs:read"),
    "POST /v1/batches/{batch_id}:cancel": acts("runs:write", 202),
    "GET /v1/publications": lists("publications:read"),
    "POST /v1/publications": acts(
        "publications:write",
        422,
        lambda ids: {"run_id": ids["run_id"], "target": {"kind": "folder"}},
    ),
    "GET /v1/publications/{publication_id}": reads("publications:read"),
    "GET /v1/secrets": lists("secrets:read"),
    "PUT /v1/secrets/{name}": creates("secrets:write"),
    "GET /v1/secrets/{name}": reads("secrets:read"),
    "DELETE /v1/secrets/{name}": Row(scope="secrets:write", own=204),
    "GET /v1/webhooks": lists("webhooks:read"),
    "POST /v1/webhooks": creates("webhooks:write"),
    "GET /v1/webhooks/{webhook_id}": reads("webhooks:read"),
    "PATCH /v1/webhooks/{webhook_id}": acts("webhooks:write", 200),
    "POST /v1/webhooks/{webhook_id}:rotate-secret": acts("webhooks:write", 201),
    "POST /v1/webhooks/{webhook_id}:test": acts("webhooks:write", 201),
    "GET /v1/webhooks/{webhook_id}/deliveries": reads("webhooks:read"),
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery_id}": reads("webhooks:read"),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}:replay": acts("webhooks:write", 202),
    "DELETE /v1/webhooks/{webhook_id}": Row(scope="webhooks:write", own=204),
    "GET /v1/members": lists("members:read"),
    "POST /v1/members": creates("members:write"),
    "GET /v1/members/{member_id}": reads("members:read"),
    "PATCH /v1/members/{member_id}": acts("members:write", 200, lambda _: {"role": "member"}),
    "GET /v1/api-keys": lists("keys:read"),
    "POST /v1/api-keys": acts(
        "keys:write", 201, lambda ids: {"name": "new", "member_id": ids["member_id"]}
    ),
    "GET /v1/api-keys/{key_id}": reads("keys:read"),
    "POST /v1/api-keys/{key_id}:rotate": acts("keys:write", 201),
    "DELETE /v1/api-keys/{key_id}": Row(scope="keys:write", own=204),
    "DELETE /v1/members/{member_id}": Row(scope="members:write", own=204),
    "GET /v1/audit-events": lists("audit:read"),
    "GET /v1/audit-events:verify": lists("audit:read"),
    "GET /v1/deletions/{deletion_id}": reads("runs:read"),
    "GET /v1/tenant": lists("usage:read"),
    "GET /v1/gpu-types": lists("runs:read"),
    "GET /v1/usage": lists("usage:read"),
    "GET /v1/quotas": lists("usage:read"),
    "GET /v1/admin/tenants": lists("operator"),
    "POST /v1/admin/tenants": creates("operator"),
    "GET /v1/admin/tenants/{tenant_id}": reads("operator"),
    "PATCH /v1/admin/tenants/{tenant_id}": acts("operator", 200, lambda _: {"weight": 1}),
    "GET /v1/admin/tenants/{tenant_id}/members": reads("operator"),
    "GET /v1/admin/tenants/{tenant_id}/api-keys": reads("operator"),
    "POST /v1/admin/tenants/{tenant_id}/api-keys": acts(
        "operator", 201, lambda _: {"name": "made by an operator"}
    ),
    "GET /v1/admin/tenants/{tenant_id}/api-keys/{key_id}": reads("operator"),
    "DELETE /v1/admin/tenants/{tenant_id}/api-keys/{key_id}": Row(scope="operator", own=204),
    "GET /v1/admin/tenants/{tenant_id}/audit-events:verify": reads("operator"),
    "GET /v1/admin/gpu-classes": lists("operator"),
    "PUT /v1/admin/gpu-classes/{gpu_class}": creates("operator"),
    "GET /v1/admin/workers": lists("operator"),
    "GET /v1/admin/deletions/{deletion_id}": reads("operator"),
    "GET /v1/admin/worker-keys": lists("operator"),
    "POST /v1/admin/worker-keys": creates("operator"),
    "GET /v1/admin/worker-keys/{worker_key_id}": reads("operator"),
    "DELETE /v1/admin/worker-keys/{worker_key_id}": Row(scope="operator", own=204),
    # The run was canceled above, and another one needs its dataset. Without the tenant's name
    # nothing is deleted.
    "DELETE /v1/runs/{run_id}": Row(scope="runs:write", own=202),
    "DELETE /v1/datasets/{dataset_id}": Row(scope="datasets:write", own=409),
    "DELETE /v1/tenant": Row(scope="tenant:write", own=422, absent=422),
    "DELETE /v1/admin/tenants/{tenant_id}": Row(scope="operator", own=422, absent=422),
}
