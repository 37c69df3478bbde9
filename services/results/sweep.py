"""Delete the objects of lost attempts and replaced checkpoints, which no row references."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

import structlog

from services.metrics.work import objects_swept
from services.objects.keys import MANIFEST_NAME, attempts_prefix
from services.objects.port import ObjectStore
from services.results.repeating import Repeating
from services.store import unreferenced
from services.store.database import Database
from services.store.unreferenced import RunToSweep

log = structlog.get_logger(__name__)

SWEEP_EVERY_S: Final = 60.0
_RUNS_A_BATCH: Final = 20


class Sweeper:
    """A thread that sweeps at once and then every ``every_s`` seconds; a context manager."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        *,
        settle: Callable[[], None] = lambda: None,
        then: Sequence[Callable[[], object]] = (),
        every_s: float = SWEEP_EVERY_S,
    ) -> None:
        """Not started yet.

        Args:
            settle: called before each sweep; whatever it raises postpones the sweep.
            then: called after each sweep of runs, one after the other.
        """
        self._database = database
        self._objects = objects
        self._settle = settle
        self._then = then
        self._thread = Repeating("sweep", self._settle_and_sweep, every_s=every_s)

    def sweep(self) -> int:
        """Sweep all runs that are due; returns the number of objects deleted.

        Raises ObjectStoreError, DatabaseDownError or DatabaseBusyError; the next sweep continues.
        """
        num_deleted = 0
        while not self._thread.is_stopping:
            with self._database.transaction() as conn:
                due = unreferenced.runs_to_sweep(conn, _RUNS_A_BATCH)
            if not due:
                break
            for run in due:
                num_deleted += self._sweep_run(run)
        return num_deleted

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.__exit__(kind, error, trace)

    def _settle_and_sweep(self) -> None:
        self._settle()
        self.sweep()
        for work in self._then:
            work()

    def _sweep_run(self, run: RunToSweep) -> int:
        # Listed before the rows are read, so what is committed in between counts as referenced.
        prefix = attempts_prefix(run.tenant_id, run.run_id)
        keys = list(self._objects.list_keys(prefix))
        with self._database.transaction() as conn:
            referenced = unreferenced.referenced_prefixes(conn, run.run_id)
        if referenced is None:
            return 0
        unreferenced_keys = [key for key in keys if is_unreferenced(key, prefix, run, referenced)]
        # Manifests first: a folder that is deleted in part must not look complete.
        unreferenced_keys.sort(key=lambda key: (not key.endswith("/" + MANIFEST_NAME), key))
        for key in unreferenced_keys:
            self._objects.delete(key)
            objects_swept.inc()
        with self._database.transaction() as conn:
            unreferenced.mark_swept(conn, run)
        if unreferenced_keys:
            log.info("run_swept", run_id=run.run_id, num_objects=len(unreferenced_keys))
        return len(unreferenced_keys)


def is_unreferenced(key: str, prefix: str, run: RunToSweep, referenced: frozenset[str]) -> bool:
    """Whether an object below ``prefix`` (the run's attempts) may be deleted.

    Attempts under an older fence have ended. So has the newest one where no worker holds the run.
    A holder may still be writing its result and checkpoints after the committed one.
    """
    if any(key.startswith(each) for each in referenced):
        return False
    fence, _, rest = key.removeprefix(prefix).partition("/")
    if not fence.isdigit() or int(fence) > run.fence:
        return False  # not an attempt's object, or the attempt was claimed after ``run`` was read
    if int(fence) < run.fence or not run.is_held:
        return True
    kind, _, name = rest.partition("/")
    step = name.partition("/")[0].removeprefix("step-")
    return kind == "checkpoints" and step.isdigit() and int(step) < run.checkpoint_step
