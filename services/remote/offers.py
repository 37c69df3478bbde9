"""Waits for the offers of a remote worker, and lets the process stop meanwhile."""

import queue
import random
import threading
from dataclasses import dataclass
from typing import Final

import httpx
import structlog

from services.client.call import get
from services.domain.ledger import LedgerDownError
from services.remote.session import PATH, WorkerSession

log = structlog.get_logger(__name__)

_WAIT_S: Final = 20
OFFERS_TIMEOUT: Final = httpx.Timeout(_WAIT_S + 15.0, connect=5.0)
"""Of the session: the service answers after ``_WAIT_S`` at the latest."""
_LOOK_EVERY_S: Final = 0.1
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    run_id: str
    traceparent: str | None
    """The run's trace; None: it has none."""


class Offers:
    """Asks for one offer at a time, in a thread that is left to itself when the process stops."""

    def __init__(self, session: WorkerSession, stopping: threading.Event) -> None:
        self._session = session
        self._stopping = stopping
        self._pause_s = _FIRST_PAUSE_S

    def next(self) -> Offer | None:
        """What this worker is offered next; None once it was asked to stop, or its key is refused.

        The same offer comes again until it is claimed or has ended.
        """
        answers: queue.SimpleQueue[Offer | None] = queue.SimpleQueue()
        while not self._stopping.is_set() and not self._session.is_refused:
            threading.Thread(
                target=lambda: answers.put(self._ask()), name="offers", daemon=True
            ).start()
            if (offer := self._answer_of(answers)) is not None:
                return offer
        return None

    def _answer_of(self, answers: "queue.SimpleQueue[Offer | None]") -> Offer | None:
        while not self._stopping.is_set():
            try:
                return answers.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
        return None

    def _ask(self) -> Offer | None:
        try:
            answer = self._session.send(get(f"{PATH}/offer", {"wait_s": _WAIT_S}))
        except LedgerDownError as error:
            log.warning("offers_not_answered", reason=str(error))
            self._stopping.wait(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
            return None
        except Exception:  # the thread's outermost loop
            log.exception("offers_not_read")
            self._stopping.wait(_LONGEST_PAUSE_S)
            return None
        self._pause_s = _FIRST_PAUSE_S
        if answer["run_id"] is None:
            return None
        return Offer(run_id=str(answer["run_id"]), traceparent=answer["traceparent"])
