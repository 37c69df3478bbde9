"""A trainer without a queue: it answers rings for one run, with a scripted child.

``python trainer_supervisor_process.py '{"run_id": …, "rings": 1, "env": {…}, …}'``
"""

import json
import signal
import sys
import threading
from functools import partial

from services.domain.ids import new_id
from services.logs.setup import configure
from services.objects.open import open_store
from services.objects.shards import delete_shard
from services.settings.env import Settings
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.trainer.attempt import answer_ring
from services.trainer.context import Assignment, TrainerContext
from services.trainer.lease import LeaseTimes
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch


def main() -> None:
    arguments = json.loads(sys.argv[1])
    settings = Settings.from_env(arguments["env"])
    configure("trainer", "console")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    database = Database(settings.database_url, max_size=4)
    objects = open_store(settings)
    worker_id = new_id("wrk")
    with (
        Scratch(settings.scratch_dir, worker_id) as scratch,
        WorkerHealth(
            scratch,
            objects,
            scratch_bytes=settings.scratch_bytes,
            models_dir=settings.models_dir,
            needs_gpu=settings.needs_gpu,
            program=arguments["device_check"],
            on_change=lambda: None,
        ) as health,
    ):
        context = TrainerContext(
            ledger=PostgresLedger(database),
            objects=objects,
            delete_shard=partial(delete_shard, objects),
            worker_id=worker_id,
            scratch=scratch,
            health=health,
            models_dir=settings.models_dir,
            scratch_bytes=1 << 30,
            needs_gpu=settings.needs_gpu,
            node_cache=settings.node_cache,
            times=LeaseTimes(
                lease_s=settings.lease_s,
                renew_s=settings.renew_s,
                orphan_s=settings.orphan_s,
                cancel_s=settings.cancel_s,
            ),
            stall_s=settings.stall_s,
            start_stall_s=settings.start_stall_s,
            stopping=stopping,
            child_command=arguments["child_command"],
        )
        for _ in range(arguments["rings"]):
            answer_ring(context, Assignment(), arguments["run_id"])
    database.close()


if __name__ == "__main__":
    main()
