"""Requests for batches, and what becomes of them."""

from typing import Any

from tests.support.tenant import Json, Tenant


def swept(base: Json, options: Json, **facts: Any) -> Json:
    return {"base": base, "sweep": {"method": "grid", "options": options, **facts}}


def refused(tenant: Tenant, body: Json, status: int = 422) -> Json:
    answer = tenant.http.post("/v1/batches", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return dict(answer.json())


def runs_of(tenant: Tenant) -> list[Json]:
    return list(tenant.get("/v1/runs?limit=100")["data"])


def without(request: Json, *names: str) -> Json:
    return {name: value for name, value in request.items() if name not in names}
