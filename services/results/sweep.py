"""Delete what no row names: attempts that lost, checkpoints that newer ones replaced."""

import threading
from types import TracebackType
from typing import Final, Self

import structlog

from services.objects.errors import ObjectStoreError
from services.objects.keys import MANIFEST_NAME, attempts_prefix
from services.objects.port import ObjectStore
from services.store import unreferenced
from services.store.database import NOT_NOW, Database
from services.store.unreferenced import RunToSweep

log = structlog.get_logger(__name__)

SWEEP_EVERY_S: Final = 600.0
_RUNS_A_BATCH: Final = 20
_STOP_S: Final = 30.0


class Sweeper:
    """A thread that sweeps at once and then every ``every_s``; ``sweep()`` does it now."""

    def __init__(
        self, database: Database, objects: ObjectStore, *, every_s: float = SWEEP_EVERY_S
    ) -> None:
        self._database = database
        self._objects = objects
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sweeper", daemon=True)

    def sweep(self) -> int:
        """Sweep all runs whose time has come; the number of objects deleted.

        Raises ObjectStoreError or DatabaseDownError; what is left is swept next time.
        """
        num_deleted = 0
        while not self._stopping.is_set():
            with self._database.transaction() as conn:
                due = unreferenced.runs_to_sweep(conn, _RUNS_A_BATCH)
            if not due:
                break
            for run in due:
                num_deleted += self._sweep_run(run)
        return num_deleted

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(_STOP_S)

    def _sweep_run(self, run: RunToSweep) -> int:
        # Listed before the rows are read: what was committed in between is then known as alive.
        prefix = attempts_prefix(run.tenant_id, run.run_id)
        keys = list(self._objects.list_keys(prefix))
        with self._database.transaction() as conn:
            live = unreferenced.live_prefixes(conn, run.run_id)
        garbage_keys = [key for key in keys if is_garbage(key, prefix, run, live)]
        # Manifests first: a folder that we leave half deleted must not look whole.
        garbage_keys.sort(key=lambda key: (not key.endswith("/" + MANIFEST_NAME), key))
        for key in garbage_keys:
            self._objects.delete(key)
        with self._database.transaction() as conn:
            unreferenced.swept(conn, run)
        if garbage_keys:
            log.info("run_swept", run_id=run.run_id, num_objects=len(garbage_keys))
        return len(garbage_keys)

    def _work(self) -> None:
        while True:
            try:
                self.sweep()
            except (ObjectStoreError, *NOT_NOW) as error:
                log.warning("sweep_put_off", error=str(error))
            except Exception:
                log.exception("sweep_failed")
                raise
            if self._stopping.wait(self._every_s):
                return


def is_garbage(key: str, prefix: str, run: RunToSweep, live: frozenset[str]) -> bool:
    """Whether an object below ``prefix`` (the run's attempts) may be deleted.

    Attempts under an older fence are over; so is the newest one when nobody holds the run. A
    holder may still be writing its result and its checkpoints past the committed one.
    """
    if any(key.startswith(each) for each in live):
        return False
    fence, _, rest = key.removeprefix(prefix).partition("/")
    if not fence.isdigit() or int(fence) > run.fence:
        return False  # not ours to judge, or of a claim made since
    if int(fence) < run.fence or not run.is_held:
        return True
    kind, _, name = rest.partition("/")
    step = name.partition("/")[0].removeprefix("step-")
    return kind == "checkpoints" and step.isdigit() and int(step) < run.checkpoint_step
