"""Fixtures for tests of the dispatcher: clock, base models, queues, plans, shards, an indexer."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from services.cache_builder.indexing.index import Indexer
from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.domain.ledger import CachedShard
from services.queue.rings import Rings
from services.store import shards
from tests.support.redis import RedisServer
from tests.support.runs import TenantDatabase
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.base_models.describe import describe_base


@pytest.fixture(scope="module")
def described_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's base models as the dispatcher needs them: descriptions without weights."""
    folder = tmp_path_factory.mktemp("models")
    transformer = folder / "hidream-tiny" / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text(json.dumps(TINY_CONFIG))
    describe_base(folder / "hidream-tiny", "hidream-tiny")
    return folder


@pytest.fixture
def queues(redis_server: RedisServer) -> Iterator[Callable[[str], int]]:
    """Number of messages that wait in a queue."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield lambda name: int(client.llen(name))
    client.close()


def real_plan(**backend: Any) -> dict[str, Any]:
    options = {"id": "photos", "caption_strategy": "textfile", "minimum_image_size": 0, **backend}
    return import_small(backends=[options]).plan.model_dump(mode="json")


def build_all_shards(tenant_db: TenantDatabase) -> list[str]:
    with tenant_db.database.transaction() as conn:
        rows = conn.execute("SELECT digest, kind FROM cache_shards ORDER BY digest").fetchall()
        for digest, kind in rows:
            entries = conn.execute(
                "SELECT digest FROM cache_entries WHERE shard = %s", (digest,)
            ).fetchall()
            stored = CachedShard(
                digest=digest,
                kind=kind,
                manifest_sha256="e" * 64,
                size_bytes=len(entries),
                entries={entry: 1 for (entry,) in entries},
            )
            shards.done(conn, tenant_db.tenant_id, digest, stored)
    return [digest for digest, _ in rows]


def index_offered(indexer: Indexer) -> None:
    """Answer the rings for runs that were offered for admission."""
    with indexer.database.transaction() as conn:
        offered = conn.execute(
            "SELECT tenant_id, run_id FROM runs WHERE offered_until > clock_timestamp()"
            " AND status = 'queued' AND stage = 'admission'"
        ).fetchall()
    for tenant_id, run_id in offered:
        indexer.answer_ring(tenant_id, run_id)


@dataclass(frozen=True, kw_only=True)
class DispatcherAndIndexer:
    """A dispatcher whose rings for admission are answered by an indexer in the same round."""

    dispatcher: Dispatcher
    indexer: Indexer

    def round(self) -> None:
        self.dispatcher.ring_for_admission()
        index_offered(self.indexer)
        self.dispatcher.round()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.jumps_s: list[float] = []
        """Seconds to add before each of the next readings."""

    def __call__(self) -> float:
        if self.jumps_s:
            self.now_s += self.jumps_s.pop(0)
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dispatcher(
    tenant_db: TenantDatabase, redis_server: RedisServer, clock: Clock
) -> Iterator[Dispatcher]:
    with Rings(redis_server.url) as rings:
        yield dispatcher_of(tenant_db, rings, clock)


def dispatcher_of(tenant_db: TenantDatabase, rings: Rings, clock: Clock) -> Dispatcher:
    return Dispatcher(
        database=tenant_db.database,
        rings=rings,
        health=Health(60, clock),
        offer=timedelta(seconds=10),
        heartbeat=timedelta(seconds=10),
        max_attempts=3,
    )


def let_health_recover(dispatcher: Dispatcher, clock: Clock) -> None:
    for _ in range(61):
        clock.now_s += 1
        dispatcher.health.note_answer()
