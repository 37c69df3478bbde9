"""A whole service for two tenants: one submits what hurts, the other healthy runs."""

import contextlib
import io
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from PIL import Image

from services.domain.states import OVER
from tests.support.fleet import Fleet
from tests.support.service import small_run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until

_QUICK = {"max_train_steps": 4, "checkpoint_step_interval": 2}
_READY_S = 60
_ENDS_S = 240


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """A run of the neighbour that succeeded, by the database's clock."""

    run_id: str
    admitted_s: float
    """From its submission until its data was indexed."""
    ended_s: float
    """From its submission until its result was stored."""
    ready_s: float
    """From the last upload before it until its dataset was verified, by the tenant's clock."""


@dataclass(kw_only=True)
class Host:
    """The running service."""

    fleet: Fleet
    ada: Tenant
    """Submits what hurts."""
    bob: Tenant
    """Her neighbour."""
    small_disk: Path | None
    """File system of the scratch of ``trainer-a``; None where this user may not mount one."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(10_000))
    """Above those of `data`, whose pictures may be in the tenant's cache."""

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """To the database, past the service; commits each statement."""
        with psycopg.connect(self.fleet.env["REVERIE_DATABASE_URL"], autocommit=True) as conn:
            yield conn

    def ask(self, statement: str, **facts: Any) -> list[tuple[Any, ...]]:
        with self.connection() as conn:
            return conn.execute(statement.encode(), facts).fetchall()

    def do(self, statement: str, **facts: Any) -> None:
        with self.connection() as conn:
            assert conn.execute(statement.encode(), facts).rowcount != 0, statement

    def files(self) -> dict[str, bytes]:
        """A picture and its caption that nobody has sent before."""
        number = next(self._numbers)
        return {"a.png": picture(number), "a.txt": f"picture {number}".encode()}

    def push(self, tenant: Tenant, files: Mapping[str, bytes]) -> str:
        """A dataset of these files, verified."""
        dataset_id = tenant.push(files)
        self.wait_verified(tenant, dataset_id)
        return dataset_id

    def wait_verified(self, tenant: Tenant, dataset_id: str) -> None:
        wait_until(
            lambda: tenant.get(f"/v1/datasets/{dataset_id}")["status"] in ("ready", "rejected"),
            deadline_s=_READY_S,
            what=f"dataset {dataset_id} to be verified",
        )

    def submit(self, dataset_id: str, **config: Any) -> str:
        """A run of ada's."""
        return self.ada.submit(small_run_request({"photos": dataset_id}, **{**_QUICK, **config}))

    @contextlib.contextmanager
    def submitted(self) -> Iterator[str]:
        """A run of ada's that is not admitted before the end of the block: its data is missing."""
        dataset_id = self.ada.push(self.files(), complete=False)
        yield self.submit(dataset_id)
        self.ada.complete(dataset_id)

    def train_healthy(self) -> Healthy:
        """Push new data as bob and train on it; the test fails where that fails."""
        began_s = time.monotonic()
        dataset_id = self.push(self.bob, self.files())
        ready_s = time.monotonic() - began_s
        run_id = self.bob.submit(small_run_request({"photos": dataset_id}, **_QUICK))
        ended = self.bob.wait_over(run_id, deadline_s=_ENDS_S)
        assert ended["status"] == "succeeded", ended["status_reason"]
        ((admitted_s, ended_s),) = self.ask(
            "SELECT extract(epoch FROM min(events.created_at) - runs.created_at)::float8,"
            " extract(epoch FROM finished_at - runs.created_at)::float8"
            " FROM runs JOIN events USING (run_id)"
            " WHERE run_id = %(run_id)s AND data->>'stage' IN ('caching', 'capacity')"
            " GROUP BY runs.run_id",
            run_id=run_id,
        )
        return Healthy(run_id=run_id, admitted_s=admitted_s, ended_s=ended_s, ready_s=ready_s)

    def row(self, run_id: str) -> Json:
        """Status, stage and reason of a run, also where its row is damaged."""
        ((status, stage, reason),) = self.ask(
            "SELECT status, stage, status_reason FROM runs WHERE run_id = %(run_id)s",
            run_id=run_id,
        )
        return {"status": status, "stage": stage, "reason": reason or {}}

    def wait_in(self, run_id: str, stage: str) -> None:
        wait_until(
            lambda: self.row(run_id)["stage"] == stage,
            deadline_s=_READY_S,
            what=lambda: f"{stage}: {self.row(run_id)}",
        )

    def end_of(self, run_id: str) -> Json:
        """Wait until the run is over; pauses between tries are skipped."""

        def is_over() -> bool:
            with self.connection() as conn:
                for statement in _SKIP_PAUSES:
                    conn.execute(statement.encode(), {"run_id": run_id})
            return self.row(run_id)["status"] in OVER

        wait_until(
            is_over, deadline_s=_ENDS_S, what=lambda: f"the end of {self.row(run_id)}", every_s=0.25
        )
        return self.row(run_id)


_SKIP_PAUSES = (
    """
    UPDATE runs SET ring_after = clock_timestamp()
    WHERE run_id = %(run_id)s AND status = 'queued' AND ring_after > clock_timestamp()
        AND coalesce(greatest(offered_until, index_until) < clock_timestamp(), true)
    """,
    """
    UPDATE cache_shards SET ring_after = clock_timestamp()
    WHERE (tenant_id, digest) IN (
            SELECT tenant_id, digest FROM run_shards WHERE run_id = %(run_id)s)
        AND status = 'pending' AND ring_after > clock_timestamp()
        AND coalesce(greatest(offered_until, lease_until) < clock_timestamp(), true)
    """,
)


def picture(number: int, edge_px: int = 64) -> bytes:
    """A small photograph of one colour with a corner of another; each number has its own."""
    image = Image.new("RGB", (edge_px, edge_px), (number % 256, number // 256 % 256, 90))
    image.paste((250, 250, number % 251), (0, 0, edge_px // 2, edge_px // 2))
    body = io.BytesIO()
    image.save(body, "PNG")
    return body.getvalue()
