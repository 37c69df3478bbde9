"""The service that is measured: real PostgreSQL and Redis, and the processes that a case needs."""

import contextlib
import json
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.processes.tree import descendants
from services.store import tenants
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.unit.config_examples import TINY_CONFIG
from trainer_core.base_models.describe import describe_base

NAME = "hidream-tiny"
"""The base model; the control plane reads its description only."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a case measures; processes are added with ``fleet.start``."""

    fleet: Fleet
    postgres: PostgresServer
    redis: RedisServer
    database: Database
    folder: Path

    def tenant(self, name: str) -> tuple[str, str]:
        """A new tenant: its id and an API key."""
        with self.database.transaction() as conn:
            tenant_id = tenants.create_tenant(conn, name)
            return tenant_id, new_api_key(conn, tenant_id)

    def start_admission(self) -> None:
        """A dispatcher, and an indexer without its cache builder, which would encode pictures."""
        builder = Worker(
            worker_id=new_id("wrk"), kind="cache_builder", gpu_class="cpu", version="0"
        )
        PostgresLedger(self.database).register(builder, draining=False, run_id=None)
        self.fleet.start("indexer")
        # The builder sends no heartbeat, so the dispatcher must not wait for one.
        self.fleet.start("dispatcher", REVERIE_HEARTBEAT_S="3600")

    def start_api(self) -> None:
        self.fleet.start_api()

    def pss_bytes(self, name: str) -> int:
        """Memory of a process and its descendants; shared pages are divided among their users."""
        first = self.fleet.processes[name].pid
        return sum(_pss_bytes(pid) for pid in (first, *(p.pid for p in descendants([first]))))


@contextlib.contextmanager
def running(modules: dict[str, str] | None = None, **env: str) -> Iterator[Setting]:
    """Servers and no processes yet; ``env`` and ``modules`` as for ``Fleet``."""
    with TemporaryDirectory(prefix="bench-") as temporary, contextlib.ExitStack() as opened:
        folder = Path(temporary)
        postgres = PostgresServer()
        opened.callback(postgres.remove)
        postgres.start()
        postgres.make_template()
        redis = RedisServer()
        opened.callback(redis.stop)
        redis.start()
        url = postgres.create_database()
        fleet = Fleet(
            folder,
            {
                "REVERIE_DATABASE_URL": url,
                "REVERIE_BROKER_URL": redis.url,
                "REVERIE_OBJECTS_URL": f"file://{folder}/objects",
                "REVERIE_MODELS_DIR": str(_describe_model(folder / "models")),
                "REVERIE_LEASE_S": "60",
                "REVERIE_RENEW_S": "15",
                "REVERIE_HEARTBEAT_S": "5",
                "REVERIE_POLL_S": "1",
                **env,
            },
            {"indexer": "services.cache_builder.indexing", **(modules or {})},
        )
        database = Database(url, max_size=8)
        opened.callback(database.close)
        opened.callback(fleet.stop)
        yield Setting(fleet=fleet, postgres=postgres, redis=redis, database=database, folder=folder)


def machine() -> dict[str, Any]:
    """What a figure depends on; ``load`` is what else the machine did before."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("celery", "fastapi", "psycopg")},
    }


def percentile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return round(1000 * statistics.quantiles(seconds, n=1000)[round(share * 1000) - 1], 1)


def _describe_model(models_dir: Path) -> Path:
    folder = models_dir / NAME
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(TINY_CONFIG))
    describe_base(folder, NAME)
    return models_dir


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
