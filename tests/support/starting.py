"""A tenant whose runs start from adapters."""

from dataclasses import dataclass
from typing import Any, Self

from services.store import run_control
from tests.support.adapter_bytes import ONE_LORA
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase
from tests.support.service import push_unread, run_request
from tests.support.tenant import Json, Tenant


@dataclass
class User:
    """A tenant with a key, and with rows of its own."""

    db: TenantDatabase
    http: Tenant
    datasets: dict[str, str]

    @classmethod
    def new(cls, fleet: Fleet, db: TenantDatabase) -> Self:
        with db.database.transaction() as conn:
            tenant = Tenant(fleet.url, new_api_key(conn, db.tenant_id))
        return cls(db, tenant, push_unread(tenant))

    def request(self, **config: Any) -> Json:
        written = {**ONE_LORA, "lycoris_config": "", **config}
        return {**run_request(self.datasets, **written), "lycoris_config": None}

    def problems(self, init_lora: str, **config: Any) -> list[Json]:
        body = self.request(init_lora=init_lora, **config)
        answer = self.http.http.post("/v1/runs", json=body)
        assert answer.status_code == 422, answer.text
        validated = self.http.post("/v1/runs:validate", body)
        assert validated["problems"] == answer.json()["errors"]
        return list(validated["problems"])

    def submit(self, init_lora: str, **config: Any) -> str:
        return self.http.submit(self.request(init_lora=init_lora, **config))

    def start_of(self, run_id: str) -> Any:
        return self.http.get(f"/v1/runs/{run_id}/plan")["identity"].get("start_adapter")

    def cancel(self, run_id: str) -> None:
        with self.db.database.transaction() as conn:
            run_control.cancel(conn, self.db.tenant_id, run_id, now=True)
