"""A queue of many tenants' runs and a few workers, in real rows, with time that the test sets.

Runs are claimed and ended by the store's own functions. Nothing is trained: before a run ends, the
start of its charged time is moved back by the run's length.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.domain.fair_share import AGING, HALF_LIFE
from services.domain.ids import new_id
from services.domain.ledger import ChildEvent, Claim, Outcome
from services.domain.quotas import Quotas
from services.store import offers, tenants
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.runs import TenantDatabase, failure

_LONG: Final = timedelta(hours=1)

_QUEUE: Final = """
INSERT INTO runs (run_id, tenant_id, plan_digest, base_model, datasets, gpu_class, max_steps,
    status, stage)
SELECT run_id, %(tenant_id)s, '', 'hidream-tiny', '{}', 'cpu', 1, 'queued', 'capacity'
FROM unnest(%(run_ids)s::text[]) AS run_id
"""
_DOCUMENTS: Final = """
INSERT INTO run_documents (run_id, tenant_id, request, plan, data_index, index_version)
SELECT run_id, %(tenant_id)s, '{}', '{}', '{}', 2 FROM unnest(%(run_ids)s::text[]) AS run_id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatch:
    """A run that was started."""

    tenant_id: str
    run_id: str
    length_s: float


@dataclass(kw_only=True)
class FairQueue:
    """Runs of many tenants on a few workers."""

    database: Database
    length_s: Callable[[str], float]
    """Tenant id → length of its next run."""
    ledger: PostgresLedger = field(init=False)
    now_s: float = 0.0
    running: list[tuple[float, str, Claim, Dispatch]] = field(default_factory=list)
    """A heap: when it ends, its worker, the claim, what was started."""

    def __post_init__(self) -> None:
        self.ledger = PostgresLedger(self.database)

    def add_tenant(self, *, runs: int, weight: float = 1) -> str:
        """A new tenant with this many runs that wait for a worker."""
        with self.database.transaction() as conn:
            tenant_id = tenants.create_tenant(conn, "many")
            conn.execute("UPDATE tenants SET weight = %s WHERE tenant_id = %s", (weight, tenant_id))
        self.add_runs(tenant_id, runs)
        return tenant_id

    def add_runs(self, tenant_id: str, runs: int) -> list[str]:
        run_ids = [new_id("run") for _ in range(runs)]
        facts = {"tenant_id": tenant_id, "run_ids": run_ids}
        with self.database.transaction() as conn:
            conn.execute(_QUEUE, facts)
            conn.execute(_DOCUMENTS, facts)
        return run_ids

    def add_workers(self, number: int) -> None:
        """Workers that never miss a heartbeat, each with no run."""
        tenant_db = TenantDatabase(database=self.database, tenant_id="", ledger=self.ledger)
        for _ in range(number):
            tenant_db.worker(node="here")

    def dispatch(self, number: int) -> list[Dispatch]:
        """Start this many runs, one as each worker gets free; returns them in order."""
        started: list[Dispatch] = []
        while len(started) < number:
            taken = self._offer()
            for offer in taken:
                assert offer.worker_id is not None
                started.append(self._start(offer.run_id, offer.worker_id))
            if not taken:
                self.end_next()
        return started

    def _offer(self) -> list[offers.Offer]:
        with self.database.transaction() as conn:
            return offers.take_offers(
                conn,
                offer=_LONG,
                silence=_LONG,
                half_life=HALF_LIFE,
                aging=AGING,
                quotas=Quotas(),
            )

    def _start(self, run_id: str, worker_id: str) -> Dispatch:
        claim = self.ledger.claim(run_id, worker_id=worker_id, lease=_LONG)
        assert claim is not None
        training = ChildEvent(type="stage", step=0, data={"stage": "training"}, number=1)
        self.ledger.event(run_id, claim.fence, [training])
        length_s = self.length_s(claim.tenant_id)
        started = Dispatch(tenant_id=claim.tenant_id, run_id=run_id, length_s=length_s)
        heapq.heappush(self.running, (self.now_s + length_s, worker_id, claim, started))
        return started

    def end_next(self) -> None:
        """End the run that ends first."""
        self.now_s, _, claim, started = heapq.heappop(self.running)
        with self.database.transaction() as conn:
            conn.execute(
                "UPDATE attempts SET charged_until = charged_until - make_interval(secs => %s)"
                " WHERE run_id = %s AND fence = %s",
                (started.length_s, claim.run_id, claim.fence),
            )
        self.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure(retryable=False))
