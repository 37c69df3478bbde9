"""Holding a run: a thread renews the lease, the other threads of the attempt read its state here.

Renewals have a thread of their own. A database that hangs must not stop the reading of events, and
an upload must not stop the renewals.
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
from services.domain.ledger import Ledger, LedgerDownError, RequestedAction
from services.objects.errors import ObjectStoreDownError

log = structlog.get_logger(__name__)

UNREACHABLE: Final = (LedgerDownError, ObjectStoreDownError)
"""The other side cannot be reached; the same call may succeed later."""

_LONGEST_PAUSE_S: Final = 5.0

Answer = TypeVar("Answer")


class GivenUpError(Exception):
    """This worker no longer holds the run, or cannot know: stop at once and write nothing more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseTimes:
    """All in seconds."""

    lease_s: float
    """A run whose holder does not renew for this long is taken back."""
    renew_s: float
    orphan_s: float
    """Without any renewal for this long the holder gives the run up by itself."""


class Lease:
    """One claim's lease, counted on this machine's monotonic clock from before each request."""

    def __init__(self, ledger: Ledger, run_id: str, fence: int, times: LeaseTimes) -> None:
        """The claim was made just now."""
        self._ledger = ledger
        self._run_id = run_id
        self._fence = fence
        self._times = times
        self._renewed_at_s = time.monotonic()
        self._requested = RequestedAction.RUN
        self._is_lost = False
        self._closing = threading.Event()
        context = copy_context()  # log lines of the thread name the run
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
        # Not joined: a renewal that hangs in the database changes nothing any more.
        self.stop_renewing()

    @property
    def requested(self) -> RequestedAction:
        """What the service requested at the last renewal."""
        return self._requested

    @property
    def is_given_up(self) -> bool:
        """Lost for certain, or not renewed for so long that this worker stops on its own."""
        return self._is_lost or self._silent_s() > self._times.orphan_s

    @property
    def may_have_run_out(self) -> bool:
        """Not renewed for the whole length of the lease: another holder may exist."""
        return self._silent_s() > self._times.lease_s

    def stop_renewing(self) -> None:
        """Renew no more: the lease runs out by itself."""
        self._closing.set()

    def mark_lost(self) -> None:
        """A write under our fence was refused."""
        self._is_lost = True

    def check(self) -> None:
        """Raise GivenUpError where the run is no longer ours."""
        if self.is_given_up:
            raise GivenUpError

    def until_answered(self, call: Callable[[], Answer], *, doing: str) -> Answer:
        """Repeat ``call()``, with growing pauses and jitter, until the other side can be reached.

        ``call`` must be safe to repeat: an answer may be lost after the write took place. What the
        Ledger promises of its methods is enough. Raises GivenUpError once the lease is lost or
        given up, so a second hand-back, which finds the lease ended by the first, ends here.
        """
        pause_s = 0.1
        while True:
            self.check()
            try:
                return call()
            except LeaseLostError:
                self.mark_lost()
                raise GivenUpError from None
            except UNREACHABLE as error:
                log.warning("attempt_waits", doing=doing, error=type(error).__name__)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _silent_s(self) -> float:
        return time.monotonic() - self._renewed_at_s

    def _renew_until_closed(self) -> None:
        wait_s = self._times.renew_s
        while not self._closing.wait(wait_s) and not self.is_given_up:
            asked_at_s = time.monotonic()
            try:
                self._requested = self._ledger.renew(
                    self._run_id, self._fence, lease=timedelta(seconds=self._times.lease_s)
                )
            except LeaseLostError:
                self._is_lost = True
            except UNREACHABLE as error:
                log.warning("renewal_failed", error=type(error).__name__)
                wait_s = min(self._times.renew_s, 1.0)
            except Exception:  # the thread's outermost loop: an answer we do not know is no renewal
                log.exception("renewal_broke")
            else:
                self._renewed_at_s = asked_at_s
                wait_s = self._times.renew_s
