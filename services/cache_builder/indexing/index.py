"""Admission of one run: its data is indexed, its missing shards are requested.

What goes wrong with one run ends or postpones that run. A run that ends the process in which it is
indexed gets a process of its own, and fails after some tries.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from services.cache_builder.holding import renewed
from services.cache_builder.indexing import failures
from services.cache_builder.indexing.deciding import (
    CAPTIONS_TO_INDEX,
    MAX_INDEX_BYTES,
    Admitted,
    DataIncomplete,
    Decision,
    Postponed,
    Refused,
    decide,
)
from services.domain.failures import database_busy, internal_error
from services.objects.port import ObjectStore
from services.processes.child import ChildProcess
from services.store import admission, index_tasks, run_documents, unusable_entries
from services.store.database import (
    Database,
    DatabaseBusyError,
    DatabaseDownError,
    DocumentTooLargeError,
)
from services.store.run_rows import Run
from services.traces.spans import current_traceparent, span
from trainer_core.errors import Category
from trainer_core.faultpoints import fault_point
from trainer_core.process.failure import Failure
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

TRACEPARENT: Final = "TRACEPARENT"
"""Environment variable: the trace that an indexer for one run goes on with."""
COMMAND: Final = (sys.executable, "-P", "-m", "services.cache_builder.indexing")
_LATER: Final = timedelta(minutes=1)
_BUSY_PAUSE: Final = timedelta(seconds=10)
_LARGE_S: Final = 600.0
"""Longest time for one run; 100,000 files took 18 s on 2 busy cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexer:
    """Handles ``runs.admit``."""

    database: Database
    """With a lock timeout of a few seconds."""
    models_dir: Path
    objects: ObjectStore
    """Only the first bytes of adapters are read."""
    max_index_bytes: int = MAX_INDEX_BYTES

    def answer_ring(self, tenant_id: str, run_id: str) -> None:
        """Admit, refuse or postpone the run, if it was offered and nobody else took it.

        A large one is indexed in a process of its own: Python would let others wait for it, and its
        memory is free again afterwards. So is one with which an indexer has died. Where the
        database cannot be reached, the run is offered again later.
        """
        try:
            with self.database.transaction() as conn:
                needs_process = index_tasks.needs_process(conn, tenant_id, run_id)
            if not needs_process:
                self.admit(tenant_id, run_id)
            elif _has_died_in_a_process(tenant_id, run_id):
                with self.database.transaction() as conn:
                    index_tasks.fail_dead(conn, run_id)
        except (DatabaseDownError, DatabaseBusyError) as error:
            log.warning("admission_postponed", run_id=run_id, error=type(error).__name__)

    def admit(self, tenant_id: str, run_id: str) -> None:
        """As ``answer_ring``, in this process."""
        try:
            with self.database.transaction() as conn:
                run = index_tasks.take(conn, tenant_id, run_id)
            if run is None:
                return
            fault_point("index.taken")
            with (
                span("admit", kind="consumer", tenant_id=tenant_id, run_id=run_id),
                renewed(self.database, partial(index_tasks.renew, run_id=run_id)),
            ):
                self._handle(run)
        except (DatabaseDownError, DatabaseBusyError) as error:
            log.warning("admission_postponed", run_id=run_id, error=type(error).__name__)

    def _handle(self, run: Run) -> None:
        try:
            self._act(run, self._decide(run))
        except DatabaseDownError:
            raise
        except DatabaseBusyError as error:
            log.warning("run_postponed", run_id=run.run_id, reason=str(error))
            with self.database.transaction() as conn:
                index_tasks.postpone(conn, run.run_id, after=_BUSY_PAUSE, reason=database_busy())
        except Exception:  # the other runs must be admitted
            log.exception("run_failed_unexpectedly", run_id=run.run_id)
            with self.database.transaction() as conn:
                index_tasks.fail(conn, run.run_id, internal_error())

    def _decide(self, run: Run) -> Decision:
        limit_bytes = CAPTIONS_TO_INDEX * self.max_index_bytes
        with self.database.transaction() as conn:
            if not admission.is_whole(conn, run):
                return Refused(failure=failures.run_damaged())
            caption_bytes = admission.caption_bytes(conn, run)
            if caption_bytes > limit_bytes:
                return Refused(failure=failures.captions_too_large(caption_bytes, limit_bytes))
            backends = admission.data_of(conn, run)
            start = admission.start_data_of(conn, run)
            plan = run_documents.read_plan(conn, run.tenant_id, run.run_id)
        return decide(
            plan,
            run.base_model,
            backends,
            start,
            models_dir=self.models_dir,
            objects=self.objects,
            unusable_of=partial(self._unusable_of, run.tenant_id),
            max_index_bytes=self.max_index_bytes,
        )

    def _unusable_of(self, tenant_id: str, digests: Sequence[str]) -> dict[str, str]:
        with self.database.transaction() as conn:
            return unusable_entries.reasons(conn, tenant_id, digests)

    def _act(self, run: Run, decision: Decision) -> None:
        match decision:
            case Admitted():
                self._admit(run, decision)
            case Refused(failure=failure, cause=cause):
                self._refuse(run, failure, cause)
            case Postponed(reason=reason):
                with self.database.transaction() as conn:
                    index_tasks.postpone(conn, run.run_id, after=_LATER, reason=reason)
            case DataIncomplete():
                with self.database.transaction() as conn:
                    index_tasks.await_data(conn, run.run_id)

    def _admit(self, run: Run, admitted: Admitted) -> None:
        try:
            with self.database.transaction() as conn:
                is_admitted = admission.admit(
                    conn,
                    run.run_id,
                    admitted.data_index,
                    admitted.needed,
                    admitted.warnings,
                    work=admitted.work.model_dump(mode="json"),
                    max_steps=admitted.max_steps,
                )
        except DocumentTooLargeError as error:
            self._refuse(run, admitted.too_large, error)
            return
        if is_admitted:
            log.info("run_admitted", run_id=run.run_id, entries=len(admitted.needed.digests))

    def _refuse(self, run: Run, failure: Failure, cause: BaseException | None) -> None:
        if failure.category is Category.PLATFORM:
            log.error("run_refused", run_id=run.run_id, code=failure.code, exc_info=cause)
        else:
            log.info("run_refused", run_id=run.run_id, code=failure.code)
        with self.database.transaction() as conn:
            admission.refuse(conn, run.run_id, failure)


def _has_died_in_a_process(tenant_id: str, run_id: str) -> bool:
    """Handle the run in a new process; whether that died or took too long.

    Not where SIGTERM ended it: then this machine is stopped, and the run's lease runs out.
    """
    supervisor = ("--supervisor", current_process_token())
    process = ChildProcess(
        [*COMMAND, *supervisor, "--run", tenant_id, run_id],
        env={**os.environ, TRACEPARENT: current_traceparent() or ""},
    )
    if not process.wait(_LARGE_S):
        process.kill()
    log.info("indexed_in_a_process", run_id=run_id, how=process.exit_in_words())
    return process.exit_status not in (0, -signal.SIGTERM)
