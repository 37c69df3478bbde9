"""Row-level security: the API's transactions see one tenant's rows, whatever a query forgets."""

import ast
import re
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.domain.errors import NotFoundError
from services.domain.quotas import Quotas
from services.domain.request_rates import RatePolicy
from services.store import (
    api_keys,
    audit,
    audit_losses,
    batches,
    cache_entries,
    checkpoint_retention,
    dataset_versions,
    datasets,
    deletions,
    idempotency,
    imports,
    members,
    metric_relays,
    monthly_usage,
    publications,
    quotas,
    request_rates,
    run_changes,
    run_control,
    run_documents,
    run_events,
    run_lists,
    run_logs,
    run_metrics,
    run_previews,
    run_samples,
    runs,
    secrets,
    tenants,
    unusable_entries,
    valid_keys,
    waiting,
    webhook_deliveries,
    webhooks,
)
from services.store.database import Connection, Database
from services.store.run_changes import RunChanges
from services.store.runs import NewRun
from services.store.scoped_database import ScopedDatabase
from tests.support.api_keys import KEY_PEPPER
from tests.support.run_samples import sample_path
from tests.support.runs import entry_digest, plan
from tests.support.tenant_rows import ENVELOPE, FILE, KEY, LIMIT, Rows

API = Path(__file__).parents[2] / "services" / "api"
UNSCOPED = {
    "api_keys.digest", "audit.service_id",
    "gpu_classes.currencies", "gpu_classes.find", "gpu_classes.known", "health.degraded",
    "measured.attempts", "measured.encoding", "run_limits.now", "workers.cache_builders",
}  # fmt: skip
"""Functions for rows of no tenant."""


def new_run(rows: Rows) -> NewRun:
    return NewRun(
        request={}, plan=plan(), plan_digest="d" * 64, base_model="hidream-tiny",
        datasets={"photos": rows.dataset_id}, gpu_class="cpu", max_steps=100,
    )  # fmt: skip


Call = Callable[[Connection, Rows], Any]

# Each names ada as the tenant, as a query with a wrong or forgotten filter would.
READS: dict[str, Call] = {
    "api_keys.get": lambda c, r: api_keys.get(c, r.ada, r.api_key.key_id),
    "valid_keys.find_actor": lambda c, r: valid_keys.find_actor(c, r.ada, r.api_key.key_id),
    "api_keys.list_page": lambda c, r: api_keys.list_page(c, r.ada, 10),
    "members.get": lambda c, r: members.get(c, r.ada, r.member_id),
    "members.list_page": lambda c, r: members.list_page(c, r.ada, 10),
    "monthly_usage.months": lambda c, r: monthly_usage.months(c, r.ada, 10),
    "quotas.read": lambda c, r: quotas.read(c, r.ada, Quotas()),
    "audit_losses.all_acknowledged": lambda c, r: audit_losses.all_acknowledged(c, r.ada),
    "audit.chain": lambda c, r: audit.chain(c, r.ada, 0, 10),
    "audit.list_page": lambda c, r: audit.list_page(c, r.ada, 10),
    "deletions.get": lambda c, r: deletions.get(c, r.deletion_id, tenant_id=r.ada),
    "batches.get": lambda c, r: batches.get(c, r.ada, r.batch_id),
    "batches.list_page": lambda c, r: batches.list_page(c, r.ada, 10),
    "batches.runs_not_over": lambda c, r: batches.runs_not_over(c, r.ada, r.batch_id),
    "batches.runs_of": lambda c, r: batches.runs_of(c, r.ada, r.batch_id),
    "batches.shares": lambda c, r: batches.shares(c, r.ada, [r.batch_id]),
    "dataset_versions.changes_page": lambda c, r: dataset_versions.changes_page(
        c, r.ada, r.lonely_id, r.dataset_id, limit=10
    ),
    "dataset_versions.count_changes": lambda c, r: any(
        astuple(dataset_versions.count_changes(c, r.ada, r.lonely_id, r.dataset_id))
    ),
    "dataset_versions.paths": lambda c, r: list(dataset_versions.paths(c, r.ada, r.dataset_id)),
    "datasets.get": lambda c, r: datasets.get(c, r.ada, r.dataset_id),
    "datasets.list_page": lambda c, r: datasets.list_page(c, r.ada, 10),
    "datasets.find_file": lambda c, r: datasets.find_file(c, r.ada, r.dataset_id, "a.png"),
    "datasets.files_page": lambda c, r: datasets.files_page(c, r.ada, r.dataset_id, 10),
    "datasets.caption_bytes": lambda c, r: datasets.caption_bytes(c, r.ada, [r.dataset_id]),
    "datasets.count_files": lambda c, r: any(datasets.count_files(c, r.ada, r.dataset_id)),
    "datasets.adapters": lambda c, r: datasets.adapters(c, r.ada, r.lonely_id, 5),
    "datasets.files": lambda c, r: datasets.files(c, r.ada, r.dataset_id),
    "datasets.picture_sizes": lambda c, r: datasets.picture_sizes(c, r.ada, r.dataset_id, 10),
    "datasets.usability": lambda c, r: datasets.usability(c, r.ada, [r.dataset_id]),
    "idempotency.find": lambda c, r: idempotency.find(c, r.key, "f"),
    "metric_relays.find": lambda c, r: metric_relays.find(c, r.ada, r.queued.run_id),
    "publications.get": lambda c, r: publications.get(c, r.ada, r.publication_id),
    "publications.list_page": lambda c, r: publications.list_page(c, r.ada, 10),
    "run_documents.read_notices": lambda c, r: run_documents.read_notices(
        c, r.ada, r.queued.run_id
    ),
    "run_documents.read_plan": lambda c, r: run_documents.read_plan(c, r.ada, r.queued.run_id),
    "run_documents.read_request": lambda c, r: run_documents.read_request(
        c, r.ada, r.queued.run_id
    ),
    "run_events.newest_pace": lambda c, r: run_events.newest_pace(c, r.ada, r.over.run_id, 1),
    "quotas.refusal_of_new_run": lambda c, r: quotas.refusal_of_new_run(
        c, r.ada, Quotas(queued_runs=0)
    ),
    "runs.get": lambda c, r: runs.get(c, r.ada, r.queued.run_id),
    "checkpoint_retention.keep_checkpoints": lambda c, r: [
        checkpoint_retention.keep_checkpoints(c, r.ada, r.queued.run_id)
    ],
    "runs.lock": lambda c, r: runs.lock(c, r.ada, r.queued.run_id),
    "run_lists.list_page": lambda c, r: run_lists.list_page(c, r.ada, 10),
    "runs.events": lambda c, r: runs.events(c, r.ada, r.queued.run_id, 0, 10),
    "runs.checkpoints": lambda c, r: runs.checkpoints(c, r.ada, r.over.run_id),
    "run_logs.newest": lambda c, r: run_logs.newest(c, r.ada, r.over.run_id, 0),
    "run_logs.page": lambda c, r: run_logs.page(c, r.ada, r.over.run_id, 0, 10),
    "run_metrics.bins": lambda c, r: run_metrics.bins(
        c, r.ada, r.over.run_id, ["loss"], newest_seq=10, points=10
    ),
    "run_metrics.evaluations": lambda c, r: run_metrics.evaluations(c, r.ada, r.over.run_id),
    "run_metrics.clip_scores": lambda c, r: run_metrics.clip_scores(c, r.ada, r.over.run_id),
    "run_metrics.names": lambda c, r: run_metrics.names(
        c, r.ada, r.over.run_id, newest_seq=10
    ),
    "run_previews.find": lambda c, r: run_previews.find(c, r.ada, r.sampling.run_id),
    "run_samples.find": lambda c, r: run_samples.find(c, r.ada, r.over.run_id, sample_path(5)),
    "run_samples.page": lambda c, r: run_samples.page(
        c, r.ada, r.over.run_id, step=None, name=None, after=None, limit=10
    ),
    "run_samples.newest_prompt": lambda c, r: run_samples.newest_prompt(c, r.ada, r.over.run_id),
    "runs.attempts": lambda c, r: runs.attempts(c, r.ada, r.over.run_id),
    "secrets.get": lambda c, r: secrets.get(c, r.ada, "my-hub"),
    "secrets.list_page": lambda c, r: secrets.list_page(c, r.ada, 10),
    "secrets.names": lambda c, r: secrets.names(c, r.ada, "hub"),
    "webhook_deliveries.get": lambda c, r: webhook_deliveries.get(
        c, r.ada, r.webhook.webhook_id, r.delivery_id
    ),
    "webhook_deliveries.list_page": lambda c, r: webhook_deliveries.list_page(
        c, r.ada, r.webhook.webhook_id, 10
    ),
    "webhooks.get": lambda c, r: webhooks.get(c, r.ada, r.webhook.webhook_id),
    "webhooks.list_page": lambda c, r: webhooks.list_page(c, r.ada, 10),
    "webhooks.lock": lambda c, r: webhooks.lock(c, r.ada, r.webhook.webhook_id),
    "tenants.get": lambda c, r: tenants.get(c, r.ada),
    "cache_entries.known": lambda c, r: cache_entries.known(c, r.ada, [entry_digest()]),
    "imports.find": lambda c, r: imports.find(c, r.ada, [r.lonely_id]),
    "unusable_entries.reasons": lambda c, r: unusable_entries.reasons(c, r.ada, ["e" * 64]),
    "waiting.of_new_run": lambda c, r: (
        (waiting.of_new_run(c, r.ada, "cpu", priority=0, silence=LIMIT).position or 0) > 1
    ),
    "waiting.of_runs": lambda c, r: waiting.of_runs(
        c, r.ada, [r.queued], aging=LIMIT, silence=LIMIT
    ),
}  # fmt: skip
WRITES: dict[str, Call] = {
    "api_keys.create": lambda c, r: api_keys.create(c, r.ada, KEY_PEPPER, name="new"),
    "api_keys.revoke": lambda c, r: api_keys.revoke(c, r.ada, r.api_key.key_id),
    "api_keys.rotate": lambda c, r: api_keys.rotate(
        c, r.ada, KEY_PEPPER, r.api_key, grace=LIMIT
    ),
    "members.change": lambda c, r: members.change(c, r.ada, r.member_id, {"role": "viewer"}),
    "members.create": lambda c, r: members.create(c, r.ada, name="eve", role="owner"),
    "members.remove": lambda c, r: members.remove(c, r.ada, r.member_id),
    "audit.record": lambda c, r: audit.record(c, r.ada, KEY, "a", "b"),
    "deletions.delete_dataset": lambda c, r: deletions.delete_dataset(c, r.ada, r.lonely_id),
    "deletions.delete_run": lambda c, r: deletions.delete_run(c, r.ada, r.over.run_id),
    "deletions.delete_tenant": lambda c, r: deletions.delete_tenant(c, r.ada, name="ada"),
    "batches.create": lambda c, r: batches.create(
        c, r.ada, name="", sweep=None, num_rows=1, refused=[]
    ),
    "dataset_versions.take_over": lambda c, r: dataset_versions.take_over(
        c, r.ada, r.lonely_id, base=r.dataset_id, removed=[]
    ),
    "datasets.complete": lambda c, r: datasets.complete(c, r.ada, r.dataset_id),
    "datasets.create": lambda c, r: datasets.create(c, r.ada, "photos", [FILE]),
    "datasets.touch": lambda c, r: datasets.touch(c, r.ada, r.dataset_id),
    "imports.create": lambda c, r: imports.create(c, r.ada, r.dataset_id, {"type": "csv"}, "url"),
    "metric_relays.go_on": lambda c, r: metric_relays.go_on(c, r.ada, "my-wandb"),
    "idempotency.begin": lambda c, r: idempotency.begin(c, r.key, "f"),
    "idempotency.finish": lambda c, r: idempotency.finish(c, r.key, status=500, body={}),
    "publications.create": lambda c, r: publications.create(
        c, r.ada, r.over.run_id, {"kind": "folder"}
    ),
    "quotas.check_new_dataset": lambda c, r: quotas.check_new_dataset(
        c, r.ada, Quotas(), size_bytes=1
    ),
    "quotas.check_new_runs": lambda c, r: quotas.check_new_runs(c, r.ada, Quotas()),
    "request_rates.charge": lambda c, r: request_rates.charge(c, r.ada, RatePolicy.CREATE, 1),
    "run_changes.change": lambda c, r: run_changes.change(
        c, r.ada, r.queued.run_id, RunChanges(values={"priority": 1})
    ),
    "run_control.cancel": lambda c, r: run_control.cancel(c, r.ada, r.queued.run_id),
    "run_control.pause": lambda c, r: run_control.pause(c, r.ada, r.queued.run_id),
    "run_control.resume": lambda c, r: run_control.resume(c, r.ada, r.paused.run_id),
    "runs.create": lambda c, r: runs.create(c, r.ada, new_run(r)),
    "webhook_deliveries.replay": lambda c, r: webhook_deliveries.replay(
        c, r.ada, r.webhook.webhook_id, r.delivery_id
    ),
    "webhook_deliveries.test": lambda c, r: webhook_deliveries.test(c, r.webhook),
    "webhooks.change": lambda c, r: webhooks.change(
        c, r.webhook, url="https://example.org", events=None, enabled=False
    ),
    "webhooks.create": lambda c, r: webhooks.create(
        c, r.ada, url="https://example.com", events=None, seal=lambda _: ENVELOPE
    ),
    "webhooks.delete": lambda c, r: webhooks.delete(c, r.webhook),
    "webhooks.rotate_secret": lambda c, r: webhooks.rotate_secret(
        c, r.webhook, lambda _: ENVELOPE, grace=LIMIT
    ),
    "tenants.lock": lambda c, r: [tenants.lock(c, r.ada)],
    "secrets.put": lambda c, r: secrets.put(c, r.ada, "my-hub", "hub", lambda _: ENVELOPE),
    "secrets.delete": lambda c, r: secrets.delete(c, r.ada, "my-hub"),
}  # fmt: skip
REFUSED = (NotFoundError, AssertionError, psycopg.errors.InsufficientPrivilege)
"""AssertionError: the function found no row where there has to be one."""


def outcome_of(call: Call, conn: Connection, rows: Rows) -> Any:
    """What the call returns; None where it is refused."""
    try:
        with conn.transaction():
            return call(conn, rows)
    except REFUSED:
        return None


@pytest.mark.parametrize("name", READS)
def test_no_function_reads_another_tenants_rows(
    rows: Rows, scoped: ScopedDatabase, name: str
) -> None:
    with scoped.transaction(rows.ada) as conn:
        assert READS[name](conn, rows)
    for tenant_id in (rows.eve, ""):
        with scoped.transaction(tenant_id) as conn:
            assert not outcome_of(READS[name], conn, rows)


SNAPSHOT = """
SELECT table_name, query_to_xml(
    format('SELECT * FROM %I AS each ORDER BY each::text', table_name), true, true, '')::text
FROM information_schema.tables WHERE table_schema = 'public'
"""


def contents(database: Database) -> dict[str, str]:
    with database.transaction() as conn:
        return dict(conn.execute(SNAPSHOT).fetchall())


@pytest.mark.parametrize("name", WRITES)
def test_no_function_writes_another_tenants_rows(
    rows: Rows, rows_database: Database, scoped: ScopedDatabase, name: str
) -> None:
    before = contents(rows_database)
    for tenant_id in (rows.eve, ""):
        with scoped.transaction(tenant_id) as conn:
            outcome_of(WRITES[name], conn, rows)
    assert contents(rows_database) == before
    with scoped.transaction(rows.ada) as conn, conn.transaction(force_rollback=True):
        WRITES[name](conn, rows)  # its own tenant may
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what a commit would check


def test_every_function_that_the_api_calls_is_tested_here() -> None:
    used = set()
    for file in API.rglob("*.py"):
        if file.parent.name in ("admin", "worker"):
            continue  # for operators, who see all tenants; and see test_remote_worker
        tree = ast.parse(file.read_text())
        modules = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "services.store"
            for alias in node.names
        }
        used |= {
            f"{node.func.value.id}.{node.func.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in modules
        }
    assert used == READS.keys() | WRITES.keys() | UNSCOPED


def test_only_few_files_of_the_api_may_see_all_tenants() -> None:
    names = re.compile(r"\b(unscoped|worker_database|service\.ledger)\b")
    found = {
        f.relative_to(API).as_posix() for f in API.rglob("*.py") if names.search(f.read_text())
    }
    nouns = ("api_keys", "audit_log", "deletions", "fleet", "tenants", "worker_keys")
    of_operators = {f"admin/{name}.py" for name in nouns}
    of_workers = {f"worker/{name}.py" for name in ("attempts", "held", "objects", "offers")}
    own = {"app.py", "authentication.py", "health.py", "service.py"}
    assert found == own | of_operators | of_workers
