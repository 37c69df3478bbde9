"""Relays runs' metrics to Weights & Biases: claims a relay, reads what is new, sends it, notes it.

Several threads do so. A relay that hangs or fails has retries of its own; it never touches its run.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final, Self

import structlog

from services.domain.errors import LeaseLostError, NotFoundError
from services.domain.failures import backoff
from services.metrics.work import relays as tries
from services.results.relay import failures
from services.results.relay.rows import Rows, rows_of
from services.results.relay.sending import End, Sending, Sent, send
from services.results.repeating import Repeating
from services.results.secret_process import ProcessEndedError, Sealed, in_own_process, missing
from services.store import relay_work, run_documents, runs, sealed_secrets
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.relay_work import RelayWork
from services.store.runs import Event
from services.store.sealed_secrets import SealedSecret
from services.workers.scratch import Scratch
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

RELAY_EVERY: Final = timedelta(seconds=30)
"""A run's new metrics are sent this often: each time costs the start of a process."""
_LONGEST_PAUSE: Final = timedelta(minutes=2)
"""While a run reports nothing."""
_LOOK_EVERY_S: Final = 2.0
_AT_ONCE: Final = 4
_OF_ONE_TENANT: Final = 2
_SHARE_OF_LEASE: Final = 0.9
"""The rest is for reading the events, and for ending the process."""
_ROWS_A_TRY: Final = 2000
_EVENTS_A_PAGE: Final = 1000
_FIRST_RETRY: Final = timedelta(seconds=5)
_LONGEST_RETRY: Final = timedelta(hours=1)
_MOST_TRIES: Final = 60
"""About two days in all."""
_EXIT_CODES: Final = {"succeeded": 0, "failed": 1, "canceled": 130}


class Relayer:
    """Relays what is due while its context lasts."""

    def __init__(
        self,
        database: Database,
        scratch: Scratch,
        server: str | None,
        *,
        lease: timedelta,
        stopping: threading.Event,
    ) -> None:
        """Not started yet.

        Args:
            server: base URL of a self-hosted Weights & Biases; None: the public one.
            lease: of one try; it is not renewed. A process that takes nearly as long is ended.
        """
        self._database = database
        self._scratch = scratch
        self._server = server
        self._lease = lease
        self._stopping = stopping
        self._threads = ExitStack()

    def __enter__(self) -> Self:
        for number in range(_AT_ONCE):
            self._threads.enter_context(
                Repeating(
                    f"relay_{number}", self.work, every_s=_LOOK_EVERY_S, stopping=self._stopping
                )
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.close()

    def work(self) -> int:
        """Give each relay that is due a turn; returns how many turns there were.

        Raises DatabaseDownError or DatabaseBusyError; the relay goes on after its lease.
        """
        num_turns = 0
        while not self._stopping.is_set():
            with self._database.transaction() as conn:
                work = relay_work.claim(conn, self._lease, of_one_tenant=_OF_ONE_TENANT)
            if work is None:
                break
            with structlog.contextvars.bound_contextvars(
                tenant_id=work.tenant_id, run_id=work.run_id
            ):
                try:
                    self._take_counted_turn(work)
                except (LeaseLostError, NotFoundError):
                    log.warning("relay_taken_over")
            num_turns += 1
        return num_turns

    def _take_counted_turn(self, work: RelayWork) -> None:
        """A turn; an unexpected error counts as a failed try, so that they do not go on forever."""
        try:
            self._take_turn(work)
        except (LeaseLostError, NotFoundError, *TRANSIENT_ERRORS):
            raise
        except Exception:  # one relay must not end the turns of the others
            log.exception("relay_failed_unexpectedly")
            with self._database.transaction() as conn:
                secret = sealed_secrets.get(conn, work.tenant_id, work.secret, "wandb")
            self._note_failure(work, failures.unexpected(), secret)

    def _take_turn(self, work: RelayWork) -> None:
        rows = self._read(work)
        is_end = work.is_over and len(rows.rows) < _ROWS_A_TRY
        if not rows.rows and not is_end:
            with self._database.transaction() as conn:
                relay_work.pause(conn, work, least=RELAY_EVERY, most=_LONGEST_PAUSE)
            return
        with self._database.transaction() as conn:
            secret = sealed_secrets.get(conn, work.tenant_id, work.secret, "wandb")
            plan = run_documents.read_plan(conn, work.tenant_id, work.run_id)
        if secret is None:
            self._note_failure(work, missing(work.secret, "wandb"), None)
            return
        sent = self._send(work, secret, plan, rows, is_end=is_end)
        if sent.was_opened:
            with self._database.transaction() as conn:
                sealed_secrets.note_use(conn, secret.place, None)
        if sent.failure is not None:
            self._note_failure(work, sent.failure, secret)
            return
        self._note_success(work, rows, sent.url, is_end=is_end)

    def _read(self, work: RelayWork) -> Rows:
        return rows_of(
            self._events(work),
            after_seq=work.seq,
            after_step=-1 if work.step is None else work.step,
            are_all=work.is_over,
            limit=_ROWS_A_TRY,
        )

    def _events(self, work: RelayWork) -> Iterator[Event]:
        seq = work.seq
        while seq < work.event_seq:
            with self._database.transaction() as conn:
                page = runs.events(conn, work.tenant_id, work.run_id, seq, _EVENTS_A_PAGE)
            yield from page
            if not page:
                return  # the rest was deleted by its age
            seq = page[-1].seq

    def _send(
        self,
        work: RelayWork,
        secret: SealedSecret,
        plan: Mapping[str, Any],
        rows: Rows,
        *,
        is_end: bool,
    ) -> Sent:
        if find_spec("wandb") is None:
            log.error("wandb_not_installed", fix="pip install 'reverie[trackers]'")
            return Sent(was_opened=False, failure=failures.not_installed())
        operation = plan["operation"]
        with self._scratch.work_folder("relay") as folder:
            sending = Sending(
                sealed=Sealed.of(secret),
                server=self._server,
                project=operation["tracker_project_name"],
                run_id=work.run_id,
                name=operation["tracker_run_name"] or work.run_id,
                config={"plan_digest": work.plan_digest, **plan["identity"]},
                rows=rows.rows,
                end=_end(work) if is_end else None,
                folder=folder,
            )
            try:
                return in_own_process(
                    send,
                    sending,
                    deadline_s=_SHARE_OF_LEASE * self._lease.total_seconds(),
                    is_stopping=self._stopping.is_set,
                )
            except ProcessEndedError:
                log.error("relaying_process_died")
                return Sent(was_opened=True, failure=failures.died())

    def _note_success(self, work: RelayWork, rows: Rows, url: str | None, *, is_end: bool) -> None:
        step = rows.rows[-1].step if rows.rows else work.step
        again_after = timedelta(0) if len(rows.rows) == _ROWS_A_TRY else RELAY_EVERY
        with self._database.transaction() as conn:
            relay_work.sent(
                conn,
                work,
                seq=rows.seq,
                step=step,
                url=url,
                again_after=None if is_end else again_after,
            )
        tries.labels(outcome="succeeded").inc()
        log.info("metrics_relayed", step=step, rows=len(rows.rows), is_end=is_end)

    def _note_failure(self, work: RelayWork, failure: Failure, used: SealedSecret | None) -> None:
        if self._stopping.is_set():  # we ended its process
            with self._database.transaction() as conn:
                relay_work.pause(conn, work, least=timedelta(0), most=timedelta(0))
            return
        again_after = _retry_after(work.tries) if failure.retryable else None
        with self._database.transaction() as conn:
            relay_work.failed(conn, work, failure, used=used, again_after=again_after)
        tries.labels(outcome=failure.code).inc()
        again_s = None if again_after is None else round(again_after.total_seconds(), 1)
        log.warning("relay_failed", code=failure.code, again_s=again_s)


def _end(work: RelayWork) -> End:
    summary = {"reverie/status": work.run_status, "reverie/plan_digest": work.plan_digest}
    if work.run_reason is not None:
        summary["reverie/status_reason"] = str(work.run_reason["code"])
    return End(exit_code=_EXIT_CODES[work.run_status], summary=summary)


def _retry_after(tries: int) -> timedelta | None:
    if tries >= _MOST_TRIES:
        return None
    return backoff(tries - 1, first=_FIRST_RETRY, limit=_LONGEST_RETRY)
