"""One round of the dispatcher: sweep, admit, ring, offer. All that it knows is in rows."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

import structlog

from services.dispatcher.data import UnusableDataError, index_of, rejection_of
from services.dispatcher.health import Health
from services.queue.rings import BrokerDownError
from services.store import admission, dispatch, run_documents
from services.store.admission import NeededShard
from services.store.database import Connection, Database, DatabaseDownError
from services.store.dispatch import Due
from services.store.run_rows import Run
from trainer_core.base_models.describe import read_base_models
from trainer_core.data.index import DataIndex
from trainer_core.errors import BaseModelError, Category
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_ROWS_A_ROUND: Final = 64
_SWEEPS_A_ROUND: Final = 64
_ADMISSIONS_A_ROUND: Final = 4
_HEARTBEATS_MISSED: Final = 3
_LATER: Final = timedelta(minutes=1)


class Rings(Protocol):
    """How the dispatcher tells others to look; ``services.queue.rings`` does it over the broker.

    Every method may raise BrokerDownError.
    """

    def trainer(self, gpu_class: str, run_id: str) -> None: ...
    def shard(self, tenant_id: str, digest: str) -> None: ...
    def dataset(self, tenant_id: str, dataset_id: str) -> None: ...
    def publication(self, tenant_id: str, publication_id: str) -> None: ...


class _MayNotJudgeError(Exception):
    """In the middle of a sweep it turned out that we were away ourselves: take it back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatcher:
    """Several may run at once: each row's work is done by one of them."""

    database: Database
    rings: Rings
    health: Health
    models_dir: Path
    offer: timedelta
    heartbeat: timedelta
    max_attempts: int

    def round(self) -> None:
        """Do all that is to be done now; raises DatabaseDownError."""
        try:
            self.sweep()
            self.admit()
            self.end_caching()
            self.ring()
            self.offer_runs()
        except DatabaseDownError:
            self.health.note_outage()
            raise

    def sweep(self) -> None:
        """Close attempts whose lease ran out."""
        with self._transaction() as conn:
            dispatch.forget_workers(conn)
        for _ in range(_SWEEPS_A_ROUND):
            if not self.health.may_judge or not self._sweep_one():
                return

    def admit(self) -> None:
        """Look at the data of new runs."""
        with self._transaction() as conn:
            runs = admission.runs_to_admit(conn, _ADMISSIONS_A_ROUND)
        for run in runs:
            self._admit(run)

    def end_caching(self) -> None:
        """Send runs on whose shards stand, or fail."""
        with self._transaction() as conn:
            run_ids = admission.runs_cached(conn, _ROWS_A_ROUND)
        for run_id in run_ids:
            with self._transaction() as conn:
                admission.end_caching(conn, run_id)

    def ring(self) -> None:
        """Ring for datasets, shards and publications that are due."""
        kinds = (
            ("datasets", dispatch.take_datasets, self.rings.dataset),
            ("cache_shards", dispatch.take_shards, self.rings.shard),
            ("publications", dispatch.take_publications, self.rings.publication),
        )
        for table, take, ring in kinds:
            with self._transaction() as conn:
                due = take(conn, _ROWS_A_ROUND)
            self._ring_each(table, due, ring)

    def offer_runs(self) -> None:
        """Ring for as many runs as there are free workers."""
        with self._transaction() as conn:
            silence = self.heartbeat * _HEARTBEATS_MISSED
            offers = dispatch.take_offers(conn, offer=self.offer, silence=silence)
        for position, offer in enumerate(offers):
            try:
                self.rings.trainer(offer.gpu_class, offer.run_id)
            except BrokerDownError as error:
                log.warning("broker_down", waiting=len(offers) - position, reason=str(error))
                with self._transaction() as conn:
                    for missed in offers[position:]:
                        dispatch.withdraw(conn, missed)
                return
            log.info("run_offered", run_id=offer.run_id, gpu_class=offer.gpu_class)

    def _sweep_one(self) -> bool:
        try:
            with self._transaction() as conn:
                dead = dispatch.sweep_one_dead(conn, max_attempts=self.max_attempts)
                if not self.health.may_judge:
                    # The database may have stood still since we asked ourselves the first time.
                    raise _MayNotJudgeError
        except _MayNotJudgeError:
            log.warning("sweep_taken_back")
            return False
        if dead is None:
            return False
        log.warning(
            "attempt_lost",
            run_id=dead.run_id,
            fence=dead.fence,
            worker_id=dead.worker_id,
            status=dead.status,
        )
        return True

    def _admit(self, run: Run) -> None:
        with self._transaction() as conn:
            backends = admission.data_of(conn, run)
            plan = run_documents.read_plan(conn, run.tenant_id, run.run_id)
        if failure := rejection_of(backends):
            self._refuse(run, failure)
            return
        if any(b.dataset.status != "ready" for b in backends):
            with self._transaction() as conn:
                admission.await_data(conn, run.run_id)
            return
        try:
            model = read_base_models(self.models_dir).get(run.base_model)
        except BaseModelError as error:
            log.error("base_models_unreadable", reason=str(error))
            model = None
        if model is None:
            reason = _base_model_missing(run.base_model)
            with self._transaction() as conn:
                admission.postpone(conn, run.run_id, after=_LATER, reason=reason)
            return
        try:
            index = index_of(plan, backends, model.transformer_config)
        except UnusableDataError as error:
            self._refuse(run, error.failure, cause=error.__cause__)
            return
        with self._transaction() as conn:
            is_ours = admission.admit(
                conn,
                run.run_id,
                index.model_dump(mode="json"),
                _needed(index),
                index.warnings,
            )
        if is_ours:
            log.info("run_admitted", run_id=run.run_id, shards=len(index.shards))

    def _refuse(self, run: Run, failure: Failure, cause: BaseException | None = None) -> None:
        if failure.category is Category.PLATFORM:
            log.error("run_refused", run_id=run.run_id, code=failure.code, exc_info=cause)
        else:
            log.info("run_refused", run_id=run.run_id, code=failure.code)
        with self._transaction() as conn:
            admission.refuse(conn, run.run_id, failure)

    def _ring_each(self, table: str, due: Sequence[Due], ring: Callable[[str, str], None]) -> None:
        for position, row in enumerate(due):
            try:
                ring(row.tenant_id, row.id)
            except BrokerDownError as error:
                log.warning("broker_down", waiting=len(due) - position, reason=str(error))
                with self._transaction() as conn:
                    for missed in due[position:]:
                        dispatch.put_back(conn, table, missed)
                return

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self.database.transaction() as conn:
            yield conn
        self.health.note_answer()


def _needed(index: DataIndex) -> list[NeededShard]:
    return [
        NeededShard(digest=s.digest, kind=s.kind, spec=s.spec.model_dump(mode="json"))
        for s in index.shards
    ]


def _base_model_missing(name: str) -> Failure:
    return Failure(
        code="base_model_missing",
        category=Category.INFRA,
        message=f"The base model {name} is not there at the moment; an operator has to look.",
        retryable=True,
    )
