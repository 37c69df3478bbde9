"""Fill a database with the code of commit 60c19c9 and dump it; run in a checkout of that commit.

Kept as the record of how the data beside it were made: it calls the modules of that commit, some of
which have other names or arguments today, so it does not run, and is not checked, with this code.

Writes ``database.sql`` and ``database.json``, the SHA-256 of every document, into the folder named.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from trainer_core.config.base_models import describe_base

from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.domain.ledger import ChildEvent, Outcome
from services.store import idempotency, runs, tenants
from services.store.database import Database
from tests.support.dispatching import build_all_shards, real_plan
from tests.support.postgres import PostgresServer
from tests.support.runs import Ground, checkpoint_at, failure, plan, result_of
from tests.unit.config_examples import TINY_CONFIG


class _NoRings:
    """A broker that takes every ring and tells nobody."""

    def trainer(self, _gpu_class: str, _run_id: str) -> None: ...
    def shard(self, _tenant_id: str, _digest: str) -> None: ...
    def dataset(self, _tenant_id: str, _dataset_id: str) -> None: ...
    def publication(self, _tenant_id: str, _publication_id: str) -> None: ...


def _dispatcher(database: Database, models: Path) -> Dispatcher:
    transformer = models / "hidream-tiny" / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text(json.dumps(TINY_CONFIG))
    describe_base(models / "hidream-tiny", "hidream-tiny")
    return Dispatcher(
        database=database,
        rings=_NoRings(),
        health=Health(60),
        models_dir=models,
        offer=timedelta(seconds=10),
        heartbeat=timedelta(seconds=10),
        max_attempts=3,
    )


def _fill(ground: Ground, dispatcher: Dispatcher) -> None:
    request = {"config": {"model_type": "lora", "note": "ünï ⚘ 1e-4"}, "datasets": {}}
    whole = {**real_plan(), **plan(hub_model_id="ada/dream")}

    def set_status(run_id: str, status: str) -> None:
        with ground.database.transaction() as conn:
            conn.execute("UPDATE runs SET status = %s WHERE run_id = %s", (status, run_id))

    # Admitted by the dispatcher itself, on real plans and real indices.
    cached = ground.queued(plan=real_plan(), request=request)
    dispatcher.admit()
    build_all_shards(ground)
    dispatcher.end_caching()
    ground.queued(plan=real_plan(), request=request, datasets=cached.datasets)
    dispatcher.admit()
    ground.queued(plan=real_plan(minimum_image_size=200), request=request)
    dispatcher.admit()  # failed: no image is large enough

    held = ground.held(plan=whole, request=request)
    ground.ledger.event(
        held.run_id,
        held.fence,
        [
            ChildEvent(type="stage", step=0, data={"stage": "training"}, number=1),
            ChildEvent(type="step", step=1, data={"loss": 0.123456789, "lr": 1e-05}, number=2),
        ],
    )
    for step in (10, 20, 30):
        ground.ledger.commit_checkpoint(held.run_id, held.fence, checkpoint_at(held, step))

    done = ground.held(plan=whole, request=request)
    ground.ledger.commit_checkpoint(done.run_id, done.fence, checkpoint_at(done, 50))
    ground.ledger.commit_result(done.run_id, done.fence, result_of(done), step=100)

    again = ground.held(plan=whole, request=request)
    ground.ledger.hand_back(again.run_id, again.fence, Outcome.FAILED, failure())  # queued again

    failed = ground.held(plan=whole, request=request)
    wrong = failure(retryable=False, code="non_finite_loss")
    ground.ledger.hand_back(failed.run_id, failed.fence, Outcome.FAILED, wrong)

    canceling = ground.held(plan=whole, request=request)
    canceled = ground.queued(plan=real_plan(), request=request)
    with ground.database.transaction() as conn:
        runs.cancel(conn, ground.tenant_id, canceling.run_id)
        runs.cancel(conn, ground.tenant_id, canceled.run_id)
    set_status(ground.held(plan=whole, request=request).run_id, "pausing")
    paused = ground.held(plan=whole, request=request)
    set_status(paused.run_id, "pausing")
    ground.ledger.hand_back(paused.run_id, paused.fence, Outcome.STOPPED, None)

    with ground.database.transaction() as conn:
        tenants.create_api_key(conn, ground.tenant_id, "laptop")
        scope = (ground.tenant_id, "POST", "/v1/runs", "a-key")
        idempotency.begin(conn, *scope, "f" * 64)
        idempotency.finish(conn, *scope, status=201, body={"id": held.run_id})
        waiting = ground.dataset(conn, ready=False)
    ground.queued(plan=real_plan(), request=request, datasets={"photos": waiting.dataset_id})
    ground.queued(plan=real_plan(), request=request)  # queued/admission, all of its data ready


def _documents(database: Database) -> dict[str, dict[str, str | None]]:
    """Run id → column → SHA-256 of the document as sorted JSON."""

    def digest(document: Any) -> str | None:
        if document is None:
            return None
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    with database.transaction() as conn:
        rows = conn.execute("SELECT run_id, request, plan, data_index FROM runs").fetchall()
    names = ("request", "plan", "data_index")
    return {row[0]: dict(zip(names, map(digest, row[1:]), strict=True)) for row in rows}


def main(folder: Path) -> None:
    server = PostgresServer()
    server.start()
    server.make_template()
    url = server.create_database()
    database = Database(url, max_size=4)
    with tempfile.TemporaryDirectory() as models:
        for number in range(2):
            ground = Ground.new(database)
            if number == 0:
                _fill(ground, _dispatcher(database, Path(models)))
            else:
                ground.claimable(plan={**real_plan(), **plan()}, request={"config": {}})
    (folder / "database.json").write_text(json.dumps(_documents(database), indent=1) + "\n")
    database.close()
    dump = ["pg_dump", "--no-owner", "--no-privileges", "--inserts", url]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    # psql's own commands; the test hands the file to the server as it is.
    lines = [line for line in text.splitlines() if not line.startswith("\\")]
    (folder / "database.sql").write_text("\n".join(lines) + "\n")
    server.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
