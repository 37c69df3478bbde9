"""A tenant whose metrics are relayed to a server of Weights & Biases."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.domain.ids import new_id
from services.domain.ledger import ChildEvent, Claim
from services.results.relay.relayer import Relayer
from services.secrets.keys import new_private_key, parse_public, public_text
from services.secrets.sealing import seal
from services.store import metric_relays, secrets
from services.store.database import Database
from services.store.metric_relays import MetricRelay
from services.workers.scratch import Scratch
from tests.support.runs import LEASE, TenantDatabase, result_of
from tests.support.wandb_server import WandbServer
from tests.unit.config_examples import import_small

PRIVATE = new_private_key()
PUBLIC = parse_public(public_text(PRIVATE))
KEY = "c0ffee" * 7
PLAN = import_small(
    {"report_to": "wandb", "tracker_project_name": "moons", "tracker_run_name": "first try"}
).plan.model_dump(mode="json")


@dataclass(frozen=True, kw_only=True)
class Relaying:
    """A tenant whose runs are relayed."""

    tenant_db: TenantDatabase

    @property
    def database(self) -> Database:
        return self.tenant_db.database

    def store_key(self, key: str = KEY, *, name: str = "my-wandb", kind: str = "wandb") -> None:
        """As ``PUT /v1/secrets/{name}`` does."""
        tenant_id = self.tenant_db.tenant_id
        with self.database.transaction() as conn:
            secrets.put(conn, tenant_id, name, kind, lambda p: seal(SecretStr(key), p, PUBLIC))
            metric_relays.go_on(conn, tenant_id, name)

    def claim(self) -> Claim:
        return self.tenant_db.held(plan=PLAN, wandb_secret="my-wandb")

    def report(self, claim: Claim, *steps: int, value: float = 0.0, evaluated: int = -1) -> None:
        """Events of these steps; with the one of ``evaluated`` comes the validation loss."""
        events = []
        for step in steps:
            data = {"loss": value + 1 / (step + 3), "learning_rate": 1e-4, "grad_max": None}
            events.append(ChildEvent(type="step", step=step, data={**data, "epoch": 0}))
            if step == evaluated:
                loss = {"name": "probe", "mean": value + 0.25, "held_out_mean": None}
                events.append(ChildEvent(type="eval", step=step, data=loss))
        self.tenant_db.ledger.event(claim.run_id, claim.fence, events)

    def finish(self, claim: Claim, step: int) -> None:
        ledger = self.tenant_db.ledger
        ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=step)

    def relay(self, run_id: str) -> MetricRelay:
        with self.database.transaction() as conn:
            found = metric_relays.find(conn, self.tenant_db.tenant_id, run_id)
        assert found is not None
        return found

    def stored(self, run_id: str) -> list[tuple[int, dict[str, float]]]:
        """What the run's events say of each step, the first report of a number counting."""
        names = {"loss": "train/loss", "learning_rate": "train/learning_rate"}
        rows: dict[int, dict[str, float]] = {}
        for event in self.tenant_db.events(run_id):
            row = rows.setdefault(event.step, {})
            if event.type == "step":
                for name, shown in names.items():
                    row.setdefault(shown, event.data[name])
            elif event.type == "eval":
                row.setdefault("eval/probe/mean", event.data["mean"])
        return [(step, row) for step, row in sorted(rows.items()) if row]


@dataclass(frozen=True, kw_only=True)
class RelayingHere(Relaying):
    """With a relayer in this process."""

    scratch: Scratch
    relayer: Relayer

    def turn(self) -> None:
        """Everything that waits for a time is due now."""
        with self.database.transaction() as conn:
            conn.execute(
                "UPDATE metric_relays SET due_at = clock_timestamp() WHERE due_at IS NOT NULL"
            )
        assert self.relayer.work() == 1


def code_of(relay: MetricRelay) -> str | None:
    return None if relay.error is None else str(relay.error["code"])


@contextmanager
def relaying_to(
    wandb_server: WandbServer, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RelayingHere]:
    """A tenant and a relayer. The server accepts ``KEY``, which is stored.

    ``folder``: for scratch files, of which none is left.
    """
    monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", PRIVATE)
    wandb_server.keys.add(KEY)
    with Scratch(folder / "scratch", new_id("wrk")) as scratch:
        relayer = Relayer(
            database, scratch, wandb_server.url, lease=5 * LEASE, stopping=threading.Event()
        )
        tenant_db = TenantDatabase.new(database)
        relaying = RelayingHere(tenant_db=tenant_db, scratch=scratch, relayer=relayer)
        relaying.store_key()
        yield relaying
        assert [each.name for each in scratch.folder.iterdir()] == ["lock"]
