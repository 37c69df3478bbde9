"""The lease on a run: a thread renews it, and the attempt's other threads read its state.

Renewals run in a thread, because a hanging database must not block the reading of events, and an
upload must not block the renewals.
"""

import random
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from services.domain.errors import LeaseLostError
from services.domain.ledger import Ledger, LedgerDownError, Renewal, RequestedAction
from services.objects.errors import ObjectStoreDownError
from services.trainer.budget import Budget

log = structlog.get_logger(__name__)

UNREACHABLE: Final = (LedgerDownError, ObjectStoreDownError)
"""The database or the object store cannot be reached; the same call may succeed later."""

_LONGEST_PAUSE_S: Final = 5.0

Answer = TypeVar("Answer")


class NotWantedError(Exception):
    """Nothing more of this attempt is wanted: stop at once."""


class GivenUpError(NotWantedError):
    """This worker lost the lease or must assume so: write nothing more."""


class CanceledError(NotWantedError):
    """The run is canceled, and there is no time for a checkpoint: hand it back."""


class StoppedError(NotWantedError):
    """The attempt has to stop before there is anything to store: hand the run back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseTimes:
    """All in seconds."""

    lease_s: float
    """The dispatcher takes back a run whose holder has not renewed for this long."""
    renew_s: float
    orphan_s: float
    """The holder itself gives the run up when no renewal succeeded for this long."""
    cancel_s: float
    """A canceled run may use so long for its last checkpoint."""


class Lease:
    """One claim's lease; its age is measured by this machine's monotonic clock."""

    def __init__(
        self, ledger: Ledger, run_id: str, fence: int, times: LeaseTimes, budget: Budget
    ) -> None:
        """Create it immediately after the claim, which starts the lease.

        ``budget`` is set at each renewal.
        """
        self._ledger = ledger
        self._run_id = run_id
        self._fence = fence
        self._times = times
        self.budget = budget
        self._renewed_at_s = time.monotonic()
        self._requested = RequestedAction.RUN
        self._canceled_at_s: float | None = None
        self._is_lost = False
        self._may_have_ended = False
        self._is_over = False
        self._is_closing = False
        self._woken = threading.Event()
        context = copy_context()  # the thread's log lines name the run
        self._thread = threading.Thread(
            target=context.run, args=(self._renew_until_closed,), name="lease", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not joined: a renewal that hangs in the database is harmless now.
        self._is_over = True
        self.stop_renewing()

    @property
    def requested(self) -> RequestedAction:
        """What the service requested at the last renewal."""
        return self._requested

    @property
    def is_given_up(self) -> bool:
        """Whether the lease is lost, was not renewed for ``orphan_s``, or the attempt is over."""
        return self._is_lost or self._is_over or self._silent_s() > self._times.orphan_s

    @property
    def may_have_run_out(self) -> bool:
        """Whether no renewal succeeded for ``lease_s``: another worker may hold the run."""
        return self._silent_s() > self._times.lease_s

    def stop_renewing(self) -> None:
        """Stop renewing and let the lease expire."""
        self._is_closing = True
        self._woken.set()

    def renew_now(self) -> None:
        """Renew before it is time, in the lease's own thread."""
        self._woken.set()

    def _mark_lost(self, *, doing: str) -> None:
        """A write with our fence was refused."""
        log.warning("write_refused", doing=doing)
        self._is_lost = True

    def check(self) -> None:
        """Raise GivenUpError where the lease is given up.

        Raises CanceledError where the run is canceled now, or has had its time for a checkpoint.
        """
        self._check_held()
        if self._requested is RequestedAction.CANCEL_NOW:
            raise CanceledError
        waited_s = 0.0 if self._canceled_at_s is None else time.monotonic() - self._canceled_at_s
        if waited_s > self._times.cancel_s:
            log.warning("cancel_without_checkpoint", waited_s=round(waited_s, 1))
            raise CanceledError

    def until_answered(self, call: Callable[[], Answer], *, doing: str) -> Answer:
        """Repeat ``call()``, with growing pauses and jitter, until it returns.

        Only errors in UNREACHABLE are retried. ``call`` must be idempotent, because a reply may be
        lost after the write; the methods of Ledger are. Raises as ``check``.
        """
        return self._until_answered(call, doing=doing, check=self.check)

    def until_ended(self, call: Callable[[], Answer], *, doing: str) -> Answer:
        """As ``until_answered``, for a call that ends the lease.

        If its reply is lost, later renewals are refused. Only the repeated call tells whether it
        was this call that ended the lease.
        """
        self._may_have_ended = True
        return self.until_answered(call, doing=doing)

    def until_stored(self, store: Callable[[], None], *, doing: str) -> None:
        """As ``until_answered``, also where the run is canceled."""
        self._until_answered(store, doing=doing, check=self._check_held)

    def until_handed_back(self, hand_back: Callable[[], None]) -> None:
        """As ``until_stored``, for a call that ends the lease; see ``until_ended``."""
        self._may_have_ended = True
        self.until_stored(hand_back, doing="hand_back")

    def _until_answered(
        self, call: Callable[[], Answer], *, doing: str, check: Callable[[], None]
    ) -> Answer:
        pause_s = 0.1
        while True:
            check()
            try:
                return call()
            except LeaseLostError:
                self._mark_lost(doing=doing)
                raise GivenUpError from None
            except UNREACHABLE as error:
                log.warning("call_retried", doing=doing, error=type(error).__name__)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _check_held(self) -> None:
        if self.is_given_up:
            raise GivenUpError

    def _silent_s(self) -> float:
        return time.monotonic() - self._renewed_at_s

    def _renew_until_closed(self) -> None:
        wait_s = self._times.renew_s
        while not self._is_closed_within(wait_s) and not self.is_given_up:
            asked_at_s = time.monotonic()
            try:
                renewal = self._ledger.renew(
                    self._run_id, self._fence, lease=timedelta(seconds=self._times.lease_s)
                )
            except LeaseLostError:
                if self._may_have_ended:
                    return
                self._mark_lost(doing="renew")
            except UNREACHABLE as error:
                log.warning("renewal_failed", error=type(error).__name__)
                wait_s = min(self._times.renew_s, 1.0)
            except Exception:  # the thread's outermost loop: counts as not renewed
                log.exception("renewal_failed_unexpectedly")
            else:
                self._renewed_at_s = asked_at_s
                self._take(renewal)
                wait_s = self._times.renew_s

    def _is_closed_within(self, wait_s: float) -> bool:
        """Wait until the next renewal is due."""
        self._woken.wait(wait_s)
        self._woken.clear()
        return self._is_closing

    def _take(self, renewal: Renewal) -> None:
        self.budget.set(renewal.budget_s)
        if renewal.requested is RequestedAction.CANCEL and self._canceled_at_s is None:
            self._canceled_at_s = time.monotonic()
        self._requested = renewal.requested
