"""Fixtures for tests of the dispatcher: base models, queues, plans and shards."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from services.domain.ledger import CachedShard
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
            stored = CachedShard(digest=digest, kind=kind, manifest_sha256="e" * 64, size_bytes=1)
            shards.done(conn, tenant_db.tenant_id, digest, stored)
    return [digest for digest, _ in rows]
