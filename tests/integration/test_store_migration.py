"""Migrating a database filled by commit 60c19c9 changes no document, and its runs continue."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.cache_builder.indexing.index import Indexer
from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.domain.access import SCOPES_OF
from services.domain.quotas import Quotas
from services.domain.request_rates import RatePolicy
from services.queue.rings import Rings
from services.store import members, request_rates, run_documents
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.store.migrate import migrate
from tests.support.api_keys import KEY_PEPPER
from tests.support.api_keys import digest as digest_of
from tests.support.dispatching import DispatcherAndIndexer, build_all_shards
from tests.support.objects import plain_folder
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.runs import LEASE, TenantDatabase
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex

GOLDEN = Path(__file__).parents[1] / "golden" / "60c19c9"
DIGESTS: dict[str, dict[str, str | None]] = json.loads((GOLDEN / "database.json").read_text())
EVERY_STATUS = {
    "queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled",
}  # fmt: skip
ROWS = """
SELECT table_name, (xpath('/row/n/text()', query_to_xml(
    format('SELECT count(*) AS n FROM %I', table_name), false, true, '')))[1]::text::int
FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name
"""


@pytest.fixture
def old_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with the schema and rows of 60c19c9."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE filled_by_60c19c9")
    url = postgres_server.url("filled_by_60c19c9")
    with psycopg.connect(url) as conn:
        conn.execute((GOLDEN / "database.sql").read_bytes())
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def migrated(old_url: str) -> Iterator[Database]:
    migrate(old_url, KEY_PEPPER)
    database = Database(old_url, max_size=4)
    yield database
    database.close()


def tenant_db_of(database: Database, run_id: str) -> TenantDatabase:
    """The tenant of a run."""
    with database.transaction() as conn:
        row = conn.execute("SELECT tenant_id FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    assert row is not None
    return TenantDatabase(database=database, tenant_id=row[0], ledger=PostgresLedger(database))


def runs_at(database: Database, status: str, stage: str) -> list[str]:
    with database.transaction() as conn:
        rows = conn.execute(
            "SELECT run_id FROM runs WHERE status = %s AND stage = %s ORDER BY run_id",
            (status, stage),
        ).fetchall()
    return [row[0] for row in rows]


def digest(document: Any) -> str | None:
    if document is None:
        return None
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def test_every_document_is_as_it_was(migrated: Database) -> None:
    found: dict[str, dict[str, str | None]] = {}
    with migrated.transaction() as conn:
        rows = conn.execute("SELECT run_id, tenant_id, status FROM runs").fetchall()
        for run_id, tenant_id, _ in rows:
            documents = run_documents.read(conn, tenant_id, run_id)
            found[run_id] = {
                name: digest(getattr(documents, name)) for name in ("request", "plan", "data_index")
            }
    assert found == DIGESTS
    assert {status for _, _, status in rows} == EVERY_STATUS
    assert any(digests["data_index"] for digests in found.values())


def test_the_keys_go_on_working_for_an_owner(old_url: str) -> None:
    key = "rv_" + "aB3_-" * 8 + "xyz"  # as they were made at 60c19c9
    with psycopg.connect(old_url) as conn:
        key_sha256 = hashlib.sha256(key.encode()).hexdigest()
        conn.execute("UPDATE api_keys SET key_sha256 = %s", (key_sha256,))
    migrate(old_url, KEY_PEPPER)
    database = Database(old_url, max_size=1)
    with database.autocommit() as conn:
        found = request_rates.take(conn, digest_of(key), RatePolicy.OTHER, Quotas())
        assert found is not None
        member = members.get(conn, found[0].tenant_id, str(found[0].member_id))
        other = request_rates.take(conn, digest_of(f"{key}x"), RatePolicy.OTHER, Quotas())
    database.close()
    assert (member.role, found[0].scopes) == ("owner", SCOPES_OF["owner"])
    assert other is None


def test_no_row_of_another_table_is_lost(old_url: str) -> None:
    with psycopg.connect(old_url) as conn:
        before = dict(conn.execute(ROWS).fetchall())
    migrate(old_url, KEY_PEPPER)
    with psycopg.connect(old_url) as conn:
        after = dict(conn.execute(ROWS).fetchall())
    assert {name: after[name] for name in before} == before
    new = {name: count for name, count in after.items() if name not in before and count}
    assert new == {"run_documents": before["runs"], "members": before["tenants"]}
    assert min(before.values()) > 0, "every table holds at least one row"


def test_the_schema_is_that_of_a_new_database(
    migrated: Database, old_url: str, database_url: str
) -> None:
    def schema(url: str) -> list[str]:
        command = ["pg_dump", "--schema-only", "--no-owner", url]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [line for line in text.splitlines() if not line.startswith("\\")]

    assert schema(old_url) == schema(database_url)


def test_waiting_runs_are_admitted_and_claimed_and_a_dead_lease_is_swept(
    migrated: Database, redis_server: RedisServer, described_models_dir: Path, tmp_path: Path
) -> None:
    with migrated.transaction() as conn:
        held = conn.execute(
            "UPDATE runs SET lease_until = clock_timestamp() - interval '1 second'"
            " WHERE lease_until IS NOT NULL RETURNING run_id"
        ).fetchall()
        conn.execute("UPDATE runs SET ring_after = clock_timestamp() WHERE ring_after IS NOT NULL")
    clock_s = [0.0]
    health = Health(60, lambda: clock_s[0])
    for clock_s[0] in range(62):
        health.note_answer()
    waiting = runs_at(migrated, "queued", "admission")
    claimable = runs_at(migrated, "queued", "capacity")
    assert (len(waiting), len(held)) == (2, 3)
    with Rings(redis_server.url) as rings:
        dispatcher = Dispatcher(
            database=migrated,
            rings=rings,
            health=health,
            offer=timedelta(seconds=10),
            heartbeat=timedelta(seconds=10),
            max_attempts=3,
        )
        tenant_db_of(migrated, waiting[0]).builder()
        indexer = Indexer(
            database=migrated,
            models_dir=described_models_dir,
            objects=plain_folder(tmp_path / "objects"),
        )
        service = DispatcherAndIndexer(dispatcher=dispatcher, indexer=indexer)
        service.round()
        for run_id in claimable:
            tenant_db = tenant_db_of(migrated, run_id)
            assert tenant_db.ledger.claim(run_id, worker_id=tenant_db.worker(), lease=LEASE) is None
        for _ in range(6):  # two runs of a tenant at a time are indexed
            with migrated.transaction() as conn:
                conn.execute(
                    "UPDATE runs SET ring_after = clock_timestamp()"
                    " WHERE stage = 'admission' AND ring_after IS NOT NULL"
                )
            service.round()
        for run_id in claimable:
            build_all_shards(tenant_db_of(migrated, run_id))
        service.round()

    assert len(runs_at(migrated, "queued", "admission")) == 1  # its dataset is still uploading
    (admitted,) = set(waiting) - set(runs_at(migrated, "queued", "admission"))
    assert DataIndex.model_validate(tenant_db_of(migrated, admitted).data_index(admitted)).samples
    claimed = 0
    for run_id in claimable:
        tenant_db = tenant_db_of(migrated, run_id)
        if (reason := tenant_db.run(run_id).status_reason) is not None:
            assert reason["code"] == "plan_of_other_version"  # recorded with a part of a plan
            continue
        claimed += 1
        tenant_db.due_now(run_id)
        claim = tenant_db.ledger.claim(run_id, worker_id=tenant_db.worker(), lease=LEASE)
        assert claim is not None
        assert digest(claim.plan) == DIGESTS[run_id]["plan"]
        assert digest(claim.data_index) != DIGESTS[run_id]["data_index"], "it is indexed again"
        index = DataIndex.model_validate(claim.data_index)
        assert claim.data_index["version"] == 2
        sizes = {digest for shard in claim.shards for digest in shard.entries}
        assert sizes >= {entry.digest for entry in index.entries}
    assert claimed > 0
    for (run_id,) in held:
        tenant_db = tenant_db_of(migrated, run_id)
        assert not tenant_db.run(run_id).is_held
        assert tenant_db.attempts(run_id)[-1].outcome == "lost"


def test_plans_and_indices_of_60c19c9_are_valid_today(migrated: Database) -> None:
    admitted = runs_at(migrated, "queued", "capacity")[0]  # by the dispatcher of 60c19c9
    for run_id in [admitted, *runs_at(migrated, "queued", "admission")]:
        plan = tenant_db_of(migrated, run_id).documents(run_id).plan
        identity = Plan.model_validate(plan).identity
        # Since then a plan says how the base is multiplied; these runs had one way.
        plan["identity"]["precision"]["matmul"] = "no_change"
        assert identity.model_dump(mode="json") == plan["identity"]
    old = tenant_db_of(migrated, admitted).data_index(admitted)
    index = DataIndex.model_validate(old)
    assert [sample.path for sample in index.samples] == [each["path"] for each in old["samples"]]
    for sample, before in zip(index.samples, old["samples"], strict=True):
        rows = [
            old["shards"][text["shard"]]["spec"]["entries"][text["row"]] for text in before["texts"]
        ]
        assert index.captions_of(sample) == tuple(row["text"] for row in rows)


def test_concurrent_migrations_are_applied_once(
    postgres_server: PostgresServer,
) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE empty_at_first")
    url = postgres_server.url("empty_at_first")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [url] * 4, [KEY_PEPPER] * 4))
    migrate(url, KEY_PEPPER)
    with psycopg.connect(url) as conn:
        assert conn.execute("SELECT version_num FROM alembic_version").fetchall() == [("0019",)]
