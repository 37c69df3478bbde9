"""A worker goes on telling that it lives, whatever the database has been through."""

import time
from collections.abc import Callable

import psycopg

from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.workers.heartbeat import Heartbeat
from tests.support.waiting import wait_until


def test_a_failover_is_outlived(database: Database, database_url: str) -> None:
    worker = Worker(worker_id=new_id("wrk"), kind="trainer", gpu_class="cpu", version="1")
    ledger = PostgresLedger(database)
    with Heartbeat(ledger, worker, every_s=0.05, is_draining=lambda: False, run_id=lambda: None):
        wait_until(_is_beating(database_url), deadline_s=10, what="a first beat")
        _take_writes(database_url, are_refused=True)
        time.sleep(0.5)
        assert not _is_beating(database_url)()
        _take_writes(database_url, are_refused=False)
        wait_until(_is_beating(database_url), deadline_s=10, what="a beat after the failover")


def _is_beating(url: str) -> Callable[[], bool]:
    def is_beating() -> bool:
        with psycopg.connect(url) as conn:
            row = conn.execute(
                "SELECT count(*) FROM workers WHERE heartbeat_at > now() - interval '0.4 s'"
            ).fetchone()
        return row is not None and row[0] == 1

    return is_beating


def _take_writes(url: str, *, are_refused: bool) -> None:
    """Make the database read-only, as a standby is, or writable; nobody stays connected."""
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        state = "on" if are_refused else "off"
        conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {state}")
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND pid <> pg_backend_pid()",
            [name],
        )
