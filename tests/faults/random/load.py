"""Tenants who submit runs all the time, and the unbroken runs that theirs must equal."""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from services.client.client import Client
from services.client.errors import ClientError
from services.client.push import push_folder
from services.client.retry import Retry
from services.domain.states import OVER
from tests.faults.random.rows import open_runs
from tests.faults.random.stack import Stack
from tests.support.service import new_key, small_photos, small_run_request
from tests.support.waiting import wait_until

STEPS = 16
INTERVAL = 4
"""Steps between two checkpoints: the most that a kill may cost."""
CONFIGS: dict[str, dict[str, Any]] = {
    "lokr": {"seed": 1},
    "lokr-adamw": {"seed": 2, "optimizer": "optimi-adamw", "learning_rate": "1e-3"},
    "lora": {"seed": 3, "lora_type": "standard", "lora_rank": 4, "optimizer": "optimi-adamw"},
}
_AT_ONCE = 6
"""Most runs of all tenants that are not over."""
_UNBROKEN_S = 180
_PATIENT = Retry(tries=200, first_wait_s=0.1, limit_s=1.0)


@dataclass(kw_only=True)
class Submitted:
    """What a tenant knows of its runs."""

    tenant: str
    client: Client
    datasets: dict[str, str]
    configs: dict[str, str] = field(default_factory=dict)
    """Run id, as the service answered → name of its config."""


class Load:
    """Some tenants; the first one's runs are trained before there are faults."""

    def __init__(self, stack: Stack, seed: int, tenants: int = 3) -> None:
        self._stack = stack
        self._draw = random.Random(f"load {seed}")
        self._photos = small_photos(stack.home / "photos")
        self.keys: list[str] = []
        """Secrets that no log may hold."""
        self.tenants = [self._new_tenant(f"tenant-{n}") for n in range(tenants)]
        self.unbroken: dict[str, str] = {}
        """Name of a config → id of a run that met no fault."""
        self.errors: list[str] = []
        """Submissions that were never answered, with the reason."""
        self.submitted = 0

    def train_unbroken(self) -> None:
        """One run of each config, before the faults; the check finds those that failed."""
        first = self.tenants[0]
        for name in CONFIGS:
            self.unbroken[name] = self._submit(first, name)
        for run_id in self.unbroken.values():
            wait_until(
                partial(_is_over, first.client, run_id),
                what=f"the unbroken run {run_id}",
                deadline_s=_UNBROKEN_S,
                every_s=0.5,
            )

    def submit_until(self, end: threading.Event) -> None:
        """Keep up to six runs in the service, of a random tenant and config each."""
        while not end.is_set():
            if open_runs(self._stack) < _AT_ONCE:
                tenant = self._draw.choice(self.tenants)
                name = self._draw.choice(list(CONFIGS))
                try:
                    self._submit(tenant, name)
                except ClientError as error:
                    self.errors.append(f"{tenant.tenant} {name}: {error}")
            end.wait(0.2)

    def all_runs(self) -> dict[str, str]:
        """Every run id that the service has given → name of its config."""
        return {run: name for each in self.tenants for run, name in each.configs.items()}

    def close(self) -> None:
        for tenant in self.tenants:
            tenant.client.close()

    def _new_tenant(self, name: str) -> Submitted:
        key = new_key(self._stack.database_url, name)
        self.keys.append(key)
        client = Client(self._stack.fleet.url, key, retry=_PATIENT)
        dataset = push_folder(client, self._photos)
        return Submitted(tenant=name, client=client, datasets={"photos": dataset["id"]})

    def _submit(self, tenant: Submitted, name: str) -> str:
        self.submitted += 1
        request = _request(tenant.datasets, CONFIGS[name])
        request["metadata"] = {"submission": str(self.submitted)}
        run = tenant.client.submit_run(request)
        tenant.configs[run["id"]] = name
        return run["id"]


def _is_over(client: Client, run_id: str) -> bool:
    return client.get_run(run_id)["status"] in OVER


def _request(datasets: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    request = small_run_request(
        dict(datasets), max_train_steps=STEPS, checkpoint_step_interval=INTERVAL, **config
    )
    if config.get("lora_type") == "standard":
        request["config"].pop("lycoris_config")
        request.pop("lycoris_config")
    return request


def wait_drained(stack: Stack, deadline_s: float) -> float | None:
    """Seconds until no run is open and no publication is due; None at the deadline."""
    started_s = time.monotonic()
    while open_runs(stack) > 0:
        if time.monotonic() - started_s > deadline_s:
            return None
        time.sleep(0.2)
    return time.monotonic() - started_s
