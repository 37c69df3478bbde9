"""A tenant with one row of each kind, and another tenant who must not see them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import pytest

from services.domain.audit import Author
from services.domain.audit_chain import Loss
from services.domain.ledger import ChildEvent, Printed
from services.domain.quotas import Quotas
from services.secrets.envelope import Envelope
from services.store import (
    api_keys,
    audit_losses,
    batches,
    datasets,
    deletions,
    idempotency,
    imports,
    members,
    publications,
    quotas,
    run_control,
    secrets,
    unusable_entries,
    webhook_deliveries,
    webhooks,
)
from services.store.api_keys import ApiKey
from services.store.database import Database
from services.store.datasets import NewFile
from services.store.idempotency import KeyScope
from services.store.run_rows import Run
from services.store.runs import BatchPlace
from services.store.scoped_database import ScopedDatabase
from services.store.webhooks import Webhook
from tests.support.api_keys import KEY_PEPPER
from tests.support.postgres import PostgresServer
from tests.support.run_samples import png, preview_event, sample_event
from tests.support.runs import TenantDatabase, checkpoint_at, result_of

LIMIT: Final = timedelta(seconds=10)
FILE = NewFile(path="a.jpg", media="image", size_bytes=1, sha256="a" * 64)
ADAPTER = NewFile(path="a.safetensors", media="adapter", size_bytes=9, sha256="b" * 64)
KEY = Author(kind="key", id="key_1")
ENVELOPE = Envelope(key_id="k", sealed_key=b"s", ciphertext=b"c")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the tenant ada has, and another tenant who must not see it."""

    ada: str
    eve: str
    queued: Run
    paused: Run
    over: Run
    sampling: Run
    """It is making a picture, of which there is a preview."""
    dataset_id: str
    batch_id: str
    publication_id: str
    lonely_id: str
    """A dataset that no run needs."""
    deletion_id: str
    member_id: str
    api_key: ApiKey
    key: KeyScope
    webhook: Webhook
    delivery_id: str


def rows_of(database: Database) -> Rows:
    """Rows of a new tenant, one of each kind."""
    tenant, other = TenantDatabase.new(database), TenantDatabase.new(database)
    claim = tenant.held()
    step = ChildEvent(type="step", step=1, data={"steps_per_s": 2.0}, number=1)
    tenant.ledger.event(claim.run_id, claim.fence, [step])
    tenant.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 5))
    reported = [
        ChildEvent(type="step", step=5, data={"loss": 0.5}),
        ChildEvent(type="eval", step=5, data={"name": "evaluation", "mean": 0.5}),
        ChildEvent(type="eval", step=5, data={"name": "clip", "weights": "ema", "mean": 0.25}),
        sample_event(5, png()),
        ChildEvent(type="sample", step=5, data={"prompt": "a boat"}),
    ]
    tenant.ledger.event(claim.run_id, claim.fence, reported)
    printed = Printed(start_byte=0, num_bytes=6, text="hello\n")
    tenant.ledger.log(claim.run_id, claim.fence, printed)
    tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    sampling = tenant.held()
    stage = ChildEvent(type="stage", step=0, data={"stage": "sampling"})
    tenant.ledger.event(sampling.run_id, sampling.fence, [stage, preview_event(0, png())])
    ada = (tenant.tenant_id,)
    paused = tenant.claimable()
    with database.transaction() as conn:
        secrets.put(conn, tenant.tenant_id, "my-hub", "hub", lambda _: ENVELOPE)
        batch = batches.create(conn, tenant.tenant_id, name="", sweep=None, num_rows=1, refused=[])
    place = BatchPlace(batch_id=batch.batch_id, row=0, options={})
    notices = [{"option": "seed"}]
    queued = tenant.queued(batch=place, wandb_secret="my-wandb", notices=notices)
    key = KeyScope(tenant_id=tenant.tenant_id, method="POST", path="/v1/runs", key="k")
    with database.transaction() as conn:
        run_control.pause(conn, tenant.tenant_id, paused.run_id)
        published = publications.create(conn, tenant.tenant_id, claim.run_id, {"kind": "folder"})
        assert idempotency.begin(conn, key, "f") is None
        idempotency.finish(conn, key, status=201, body={})
        quotas.change(conn, tenant.tenant_id, {"requests_per_minute": 700})
        lonely, deleted = (
            datasets.create(conn, tenant.tenant_id, "photos", [FILE, ADAPTER]) for _ in range(2)
        )
        imports.create(conn, tenant.tenant_id, lonely.dataset_id, {"type": "csv"}, "url,caption\n")
        unusable_entries.record(conn, tenant.tenant_id, {"e" * 64: "black"})
        deletion, _ = deletions.delete_dataset(conn, tenant.tenant_id, deleted.dataset_id)
        webhook = webhooks.create(
            conn, tenant.tenant_id, url="https://example.com", events=None, seal=lambda _: ENVELOPE
        )
        delivery = webhook_deliveries.test(conn, webhook)
        member = members.create(conn, tenant.tenant_id, name="bob", role="owner")
        facts = {"name": "laptop", "member_id": member.member_id}
        api_key, _ = api_keys.create(conn, tenant.tenant_id, KEY_PEPPER, **facts)
        quotas.check_new_runs(conn, tenant.tenant_id, Quotas())
        conn.execute(
            "INSERT INTO rate_buckets (tenant_id, policy, tokens) VALUES (%s, 'create', 5)", ada
        )
        conn.execute(
            "INSERT INTO monthly_usage (tenant_id, month, gpu_class) VALUES (%s, now(), 'cpu')", ada
        )
        conn.execute(
            "INSERT INTO audit_events (tenant_id, seq, created_at, actor, action, target,"
            " hash_before, hash) VALUES (%s, 1, now(), '{}', 'run.canceled', 'run_1', '', '')",
            ada,
        )
        loss = Loss(first_seq=1, last_seq=1, anchors=())
        audit_losses.acknowledge(conn, tenant.tenant_id, KEY, loss)
    return Rows(
        ada=tenant.tenant_id,
        eve=other.tenant_id,
        queued=queued,
        paused=tenant.run(paused.run_id),
        over=tenant.run(claim.run_id),
        sampling=tenant.run(sampling.run_id),
        dataset_id=queued.datasets["photos"],
        batch_id=batch.batch_id,
        publication_id=published.publication_id,
        lonely_id=lonely.dataset_id,
        deletion_id=deletion.deletion_id,
        member_id=member.member_id,
        api_key=api_key,
        key=key,
        webhook=webhook,
        delivery_id=delivery.delivery_id,
    )


@pytest.fixture(scope="module")
def rows_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Of a database for all tests of a module: none of them leaves a change."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="module")
def rows_database(rows_url: str) -> Iterator[Database]:
    database = Database(rows_url, max_size=2)
    yield database
    database.close()


@pytest.fixture(scope="module")
def rows(rows_database: Database) -> Rows:
    return rows_of(rows_database)


@pytest.fixture(scope="module")
def scoped(rows_url: str) -> Iterator[ScopedDatabase]:
    """The database as the API's transactions see it."""
    scoped = ScopedDatabase(rows_url, max_size=2, statement_timeout=LIMIT)
    yield scoped
    scoped.close()
