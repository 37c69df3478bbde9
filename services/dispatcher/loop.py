"""A round of the dispatcher: sweep, ring, end caching, offer. All state is in rows."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import structlog

from services.dispatcher.health import Health
from services.domain.attempt_budgets import MAX_INFRA_FAILURES
from services.domain.failures import internal_error
from services.domain.fair_share import AGING, HALF_LIFE
from services.domain.placement import HEARTBEATS_MISSED
from services.domain.quotas import Quotas
from services.metrics import dispatching as metrics
from services.queue.rings import BrokerDownError
from services.store import (
    admission,
    cache_work,
    due_rows,
    failing_rows,
    import_offers,
    index_tasks,
    leases,
    offers,
    quota_waits,
    run_control,
    run_limits,
    workers,
)
from services.store.cache_work import CacheTask
from services.store.database import (
    Connection,
    Database,
    DatabaseBusyError,
    DatabaseDownError,
)
from services.store.due_rows import Due
from services.store.index_tasks import IndexOffer
from services.store.leases import DeadAttempt
from services.store.offers import Offer
from services.traces.spans import continued, span
from trainer_core.faultpoints import fault_point

log = structlog.get_logger(__name__)

Row = TypeVar("Row")

_ROWS_A_ROUND: Final = 64


class Rings(Protocol):
    """Sends rings; ``services.queue.rings`` implements it.

    A ring is a Celery message that names a row to look at. It carries ids only, and may be lost or
    repeated: the row says what is due. Every method may raise BrokerDownError.
    """

    def admission(self, tenant_id: str, run_id: str) -> None: ...
    def trainer(self, gpu_class: str, run_id: str, worker_id: str | None) -> None: ...
    def forget_worker(self, worker_id: str) -> None: ...
    def shard(self, tenant_id: str, digest: str) -> None: ...
    def dataset(self, tenant_id: str, dataset_id: str) -> None: ...
    def dataset_import(self, tenant_id: str, dataset_id: str) -> None: ...
    def publication(self, tenant_id: str, publication_id: str) -> None: ...


class _LeasesNotTrustedError(Exception):
    """The database was unreachable during a sweep: roll the sweep back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatcher:
    """Several dispatchers may run at once; each row is processed by one of them."""

    database: Database
    """With a lock timeout of a few seconds, so that a locked row does not delay all others."""
    rings: Rings
    health: Health
    offer: timedelta
    heartbeat: timedelta
    max_attempts: int
    max_infra_failures: int = MAX_INFRA_FAILURES
    quotas: Quotas = field(default_factory=Quotas)
    """Of tenants that have no others."""
    half_life: timedelta = HALF_LIFE
    """Of the use that tenants' shares are computed from."""
    aging: timedelta = AGING

    def round(self) -> None:
        """Process everything that is due; raises DatabaseDownError.

        An error with one row ends or postpones that row, and an error in one step ends that step.
        The other rows and steps are processed in the same round.
        """
        try:
            for step in (
                self.sweep,
                self.readmit_older,
                self.ring_for_admission,
                self.end_caching,
                self.ring_for_cache_work,
                self.ring_for_imports,
                self.ring_for_publications,
                self.pause_at_limits,
                self.apply_quotas,
                self.offer_runs,
                self.forget_workers,
            ):
                self._run_step(step)
        except DatabaseDownError:
            self.health.note_outage()
            raise

    def sweep(self) -> None:
        """Close attempts whose lease has expired."""
        with self._transaction() as conn:
            run_ids = leases.dead_runs(conn, _ROWS_A_ROUND)
        for run_id in run_ids:
            if not self.health.trusts_leases:
                return
            with self._one_run(run_id):
                self._sweep(run_id)

    def ring_for_admission(self) -> None:
        """Ring for runs whose data must be indexed: a few for each cache builder and tenant."""
        silence = self.heartbeat * HEARTBEATS_MISSED
        with self._transaction() as conn:
            taken = index_tasks.take_offers(conn, offer=self.offer, silence=silence)
        self._ring_each(
            taken,
            self._ring_indexer,
            index_tasks.withdraw,
        )

    def readmit_older(self) -> None:
        """Have runs indexed again whose data a version before has indexed."""
        with self._transaction() as conn:
            number = admission.readmit_older(conn, _ROWS_A_ROUND)
        if number:
            log.info("runs_of_older_index", number=number)

    def end_caching(self) -> None:
        """Queue runs whose shards are all built; fail those with a shard that cannot be built."""
        with self._transaction() as conn:
            run_ids = admission.runs_cached(conn, _ROWS_A_ROUND)
        for run_id in run_ids:
            with self._one_run(run_id), self._transaction() as conn:
                admission.end_caching(conn, run_id)

    def ring_for_cache_work(self) -> None:
        """Ring for datasets to verify and shards to build: two for each cache builder."""
        silence = self.heartbeat * HEARTBEATS_MISSED
        with self._transaction() as conn:
            taken = cache_work.take_offers(conn, offer=self.offer, silence=silence)
        ring = {CacheTask.VERIFY: self.rings.dataset, CacheTask.BUILD: self.rings.shard}
        self._ring_each(
            taken, lambda work: ring[work.task](work.tenant_id, work.id), cache_work.withdraw
        )

    def ring_for_imports(self) -> None:
        """Ring for imports of datasets that go on: one for each cache builder."""
        silence = self.heartbeat * HEARTBEATS_MISSED
        with self._transaction() as conn:
            taken = import_offers.take_offers(conn, offer=self.offer, silence=silence)
        self._ring_each(
            taken,
            lambda offer: self.rings.dataset_import(offer.tenant_id, offer.dataset_id),
            import_offers.withdraw,
        )

    def ring_for_publications(self) -> None:
        """Ring for publications that are due."""
        with self._transaction() as conn:
            due = due_rows.take_publications(conn, _ROWS_A_ROUND)
        self._ring_each(
            due,
            self._ring_publisher,
            due_rows.put_back_publication,
        )

    def pause_at_limits(self) -> None:
        """Pause runs whose deadline has passed, or that have used up another of their limits."""
        with self._transaction() as conn:
            run_ids = run_limits.runs_at_limits(conn, _ROWS_A_ROUND)
        for run_id in run_ids:
            with self._one_run(run_id), self._transaction() as conn:
                run_control.pause_at_limit(conn, run_id)

    def apply_quotas(self) -> None:
        """Let runs over a quota of their tenant wait, let others go on, ask holders to stop."""
        with self._transaction() as conn:
            starts = quota_waits.starts(conn, self.quotas)
            quota_waits.stop_runs(conn, starts)
            moves = quota_waits.moves(conn, starts, _ROWS_A_ROUND, aging=self.aging)
        for run_id, reason in moves:
            with self._one_run(run_id), self._transaction() as conn:
                quota_waits.move(conn, run_id, reason)

    def offer_runs(self) -> None:
        """Ring for as many runs as there are free workers; remote ones ask for their offer."""
        silence = self.heartbeat * HEARTBEATS_MISSED
        with self._transaction() as conn:
            taken = offers.take_offers(
                conn,
                offer=self.offer,
                silence=silence,
                half_life=self.half_life,
                aging=self.aging,
                quotas=self.quotas,
            )
        if taken:
            fault_point("offers.taken")
        self._ring_each(taken, self._ring_trainer, offers.withdraw)

    def forget_workers(self) -> None:
        """Delete workers that have sent no heartbeat for a day, and their queues."""
        with self._transaction() as conn:
            silent = workers.silent(conn, _ROWS_A_ROUND)
        for worker_id in silent:
            try:
                self.rings.forget_worker(worker_id)
            except BrokerDownError as error:
                log.warning("broker_down", waiting=len(silent), reason=str(error))
                return
            with self._transaction() as conn:
                workers.delete_silent(conn, worker_id)

    def _sweep(self, run_id: str) -> None:
        try:
            with self._transaction() as conn:
                dead = leases.close_dead(
                    conn,
                    run_id,
                    max_attempts=self.max_attempts,
                    max_infra_failures=self.max_infra_failures,
                )
                fault_point("sweep.closed")
                # There may have been an outage since the check before.
                if not self.health.trusts_leases:
                    raise _LeasesNotTrustedError
        except _LeasesNotTrustedError:
            log.warning("sweep_rolled_back", run_id=run_id)
            return
        if dead is not None:
            _log_lost(dead)

    def _ring_trainer(self, offer: Offer) -> None:
        with (
            continued(offer.traceparent),
            span("ring trainer", kind="producer", run_id=offer.run_id),
        ):
            if not offer.is_remote:  # those ask for their offers
                self.rings.trainer(offer.gpu_class, offer.run_id, offer.worker_id)
            log.info("run_offered", run_id=offer.run_id, gpu_class=offer.gpu_class)

    def _ring_indexer(self, offer: IndexOffer) -> None:
        with (
            continued(offer.traceparent),
            span("ring indexer", kind="producer", run_id=offer.run_id),
        ):
            self.rings.admission(offer.tenant_id, offer.run_id)

    def _ring_publisher(self, due: Due) -> None:
        with (
            continued(due.traceparent),
            span("ring results", kind="producer", publication_id=due.id),
        ):
            self.rings.publication(due.tenant_id, due.id)

    def _ring_each(
        self,
        rows: Sequence[Row],
        ring: Callable[[Row], None],
        put_back: Callable[[Connection, Row], None],
    ) -> None:
        for position, row in enumerate(rows):
            try:
                ring(row)
            except BrokerDownError as error:
                log.warning("broker_down", waiting=len(rows) - position, reason=str(error))
                with self._transaction() as conn:
                    for missed in rows[position:]:
                        put_back(conn, missed)
                return

    def _run_step(self, step: Callable[[], None]) -> None:
        try:
            with metrics.step_seconds.labels(step=step.__name__).time():
                step()
        except DatabaseDownError:
            raise
        except DatabaseBusyError as error:
            metrics.step_errors.labels(step=step.__name__, kind="busy").inc()
            log.warning("step_cut_short", step=step.__name__, reason=str(error))
        except Exception:  # the outermost loop: the other steps must run
            metrics.step_errors.labels(step=step.__name__, kind="unexpected").inc()
            log.exception("step_failed", step=step.__name__)

    @contextlib.contextmanager
    def _one_run(self, run_id: str) -> Iterator[None]:
        """Handle errors of one run: it is postponed, and fails after several unexpected errors."""
        try:
            yield
        except DatabaseDownError:
            raise
        except DatabaseBusyError as error:
            metrics.run_errors.labels(kind="busy").inc()
            log.warning("run_postponed", run_id=run_id, reason=str(error))
            self._postpone_busy(run_id)
        except Exception:  # the outermost loop: the other runs must be processed
            metrics.run_errors.labels(kind="unexpected").inc()
            log.exception("run_failed_unexpectedly", run_id=run_id)
            self._count_failure(run_id)

    def _postpone_busy(self, run_id: str) -> None:
        try:
            with self._transaction() as conn:
                failing_rows.postpone_busy(conn, run_id)
        except DatabaseBusyError as error:
            log.warning("run_not_postponed", run_id=run_id, reason=str(error))

    def _count_failure(self, run_id: str) -> None:
        try:
            with self._transaction() as conn:
                failing_rows.count_failure(conn, run_id, internal_error())
        except DatabaseDownError:
            raise
        except Exception:  # as in _one_run: the other runs must be processed
            log.exception("failure_not_counted", run_id=run_id)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.database.transaction() as conn:
                yield conn
        except DatabaseBusyError:
            self.health.note_answer()
            raise
        self.health.note_answer()


def _log_lost(dead: DeadAttempt) -> None:
    metrics.leases_expired.inc()
    log.warning(
        "attempt_lost",
        run_id=dead.run_id,
        tenant_id=dead.tenant_id,
        fence=dead.fence,
        worker_id=dead.worker_id,
        status=dead.status,
    )
