"""A held run with what stores its pictures and previews."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from services.domain.ledger import ChildEvent, Claim
from services.objects.keys import sample_key
from services.store import run_previews
from services.store.run_previews import Preview
from services.store.run_samples import Sample
from services.trainer import previews as previews_module
from services.trainer.background import Background
from services.trainer.budget import Budget
from services.trainer.context import HeldRun, TrainerContext
from services.trainer.lease import Lease, LeaseTimes
from services.trainer.previews import Previews
from services.trainer.samples import Samples
from tests.support.failing_store import FailingStore, store_in
from tests.support.run_samples import preview_event, write_sample
from tests.support.runs import LEASE, TenantDatabase
from tests.support.sample_rows import RED, rows_of

TIMES = LeaseTimes(lease_s=60, renew_s=60, orphan_s=60, cancel_s=60)


@dataclass
class Held:
    """A held run and what stores its pictures."""

    tenant: TenantDatabase
    claim: Claim
    store: FailingStore
    output: Path
    background: Background
    samples: Samples = field(init=False)
    previews: Previews = field(init=False)
    reported: list[ChildEvent] = field(default_factory=list)
    started: list[Future[None]] = field(default_factory=list)

    def start(self, call: Callable[[], None]) -> Future[None]:
        self.started.append(self.background.start(call))
        return self.started[-1]

    def make(self, event: ChildEvent, body: bytes = RED) -> Path:
        """A picture and its event, as of a training process."""
        path = write_sample(self.output, event, body)
        self.samples.take(event)
        return path

    def preview(self, sampler_step: int, body: bytes, **changes: Any) -> None:
        """A preview and its event, as of a training process that samples the picture of step 0."""
        path = self.output.joinpath(*previews_module.FILE)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
        event = preview_event(0, body, sampler_step, **changes)
        event.data.pop("size_bytes")
        self.previews.take(event)

    def report(self, event: ChildEvent) -> None:
        self.tenant.ledger.event(self.claim.run_id, self.claim.fence, [event])

    def newest_preview(self) -> Preview | None:
        with self.tenant.database.transaction() as conn:
            return run_previews.find(conn, self.claim.tenant_id, self.claim.run_id)

    def wait(self) -> None:
        for future in self.started:
            future.result(20)
        self.started.clear()

    def rows(self) -> list[Sample]:
        return rows_of(self.tenant, self.claim.run_id)

    def stored(self, body: bytes, *, fence: int | None = None) -> bytes | None:
        """What the store has where this picture of the attempt belongs."""
        key = self.key(body, fence=fence)
        if self.store.size(key) is None:
            return None
        return self.store.get_bytes(key, limit_bytes=1 << 20)

    def key(self, body: bytes, *, fence: int | None = None) -> str:
        claim, sha256 = self.claim, hashlib.sha256(body).hexdigest()
        return sample_key(claim.tenant_id, claim.run_id, fence or claim.fence, sha256)

    def events(self, kind: str = "sample") -> list[ChildEvent]:
        return [
            ChildEvent(type=each.type, step=each.step, data=each.data)
            for each in self.tenant.events(self.claim.run_id)
            if each.type == kind
        ]

    def warnings(self) -> list[str]:
        return [str(each.data["message"]) for each in self.reported]


@pytest.fixture
def held(tenant_db: TenantDatabase, tmp_path: Path) -> Iterator[Held]:
    claim, store, output = tenant_db.held(), store_in(tmp_path), tmp_path / "attempt" / "output"
    output.mkdir(parents=True)
    with (
        Lease(tenant_db.ledger, claim.run_id, claim.fence, TIMES, Budget(None)) as lease,
        Background(lease, "committer") as background,
    ):
        held = Held(tenant_db, claim, store, output, background)
        context = cast(TrainerContext, _Context(tenant_db.ledger, store))
        run = HeldRun(context=context, claim=claim, lease=lease)
        held.samples = Samples(run, output, start=held.start, report=held.reported.append)
        held.previews = Previews(run, output, start=held.start, report=held.report)
        yield held


@dataclass
class _Context:
    """What storing pictures needs of the worker's context."""

    ledger: Any
    objects: Any


def next_attempt(tenant: TenantDatabase, claim: Claim) -> Claim:
    """The attempt after one that was lost."""
    tenant.let_lease_run_out(claim.run_id)
    assert tenant.sweep(max_attempts=9) is not None
    tenant.due_now(claim.run_id)
    again = tenant.ledger.claim(claim.run_id, worker_id=tenant.worker(), lease=LEASE)
    assert again is not None
    return again
