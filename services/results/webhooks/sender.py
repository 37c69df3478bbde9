"""The process that opens signing secrets and sends events: several at a time, for a while."""

import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Final

import structlog
from pydantic import SecretStr

from services.logs.setup import configure
from services.processes.core_dumps import forbid_core_dumps
from services.processes.launch import die_with_parent
from services.results.webhooks.sending import TIMEOUT_S, send
from services.secrets.envelope import KeyMissingError, SecretUnreadableError
from services.secrets.opening import PrivateKeys, open_secret
from services.settings.env import Settings
from services.store import sealed_secrets, webhook_work
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.webhook_work import Answer, DueDelivery
from trainer_core.faultpoints import fault_point
from trainer_core.web.public_addresses import Network

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 16
_FAILING_AT_ONCE: Final = 8
"""To webhooks whose newest try failed: the other places are free for the rest."""
_LIFE_S: Final = 45.0
"""Then nothing new is begun."""
_LINGER_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.25
_LEASE: Final = timedelta(seconds=TIMEOUT_S + 45)
"""A look-up of a host name may take half a minute."""
_POSTPONED: Final = timedelta(minutes=5)


def send_due(outcomes: Connection, parent_pid: int) -> None:
    """The process: it ends with the thread that started it, after SIGTERM, or when nothing is due.

    Args:
        outcomes: gets the outcome of each try: ``succeeded``, ``refused``, or a code.
    """
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent decides
    die_with_parent(signal.SIGKILL, parent_pid)
    forbid_core_dumps()
    settings = Settings.from_env(os.environ)
    configure("results", settings.log_format)
    keys = settings.secrets_private_keys
    database = Database(settings.database_url, max_size=4)
    sender = Sender(
        database=database,
        keys=None if keys is None else PrivateKeys.parse(keys),
        allowed=settings.webhook_networks,
        outcomes=outcomes,
        said=threading.Lock(),
    )
    try:
        sender.work(stopping)
    except TRANSIENT_ERRORS as error:
        log.warning("webhooks_postponed", error=str(error))
    database.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    """Sends what is due, several events at a time."""

    database: Database
    keys: PrivateKeys | None
    allowed: tuple[Network, ...]
    outcomes: Connection
    said: threading.Lock
    """Held while an outcome is written."""
    linger_s: float = _LINGER_S
    """It ends when there was nothing to send for so long."""
    timeout_s: float = TIMEOUT_S
    """Of a try."""

    def work(self, stopping: threading.Event) -> None:
        """Send until nothing is due, the time is over, or ``stopping`` is set."""
        ends_at = time.monotonic() + _LIFE_S
        idle_until = time.monotonic() + self.linger_s
        under_way: dict[Future[None], DueDelivery] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while not stopping.is_set() and time.monotonic() < ends_at:
                for delivery in self._claim(under_way):
                    under_way[pool.submit(self._deliver, delivery)] = delivery
                if under_way:
                    done, _ = wait(under_way, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
                    for each in done:
                        del under_way[each]
                    idle_until = time.monotonic() + self.linger_s
                elif time.monotonic() < idle_until:
                    # No wait of `stopping`: on its way into that, a handler could not set it.
                    time.sleep(min(_LOOK_EVERY_S, self.linger_s))
                else:
                    break

    def _claim(self, under_way: dict[Future[None], DueDelivery]) -> list[DueDelivery]:
        num_failing = sum(each.is_failing for each in under_way.values())
        with self.database.transaction() as conn:
            return webhook_work.claim(
                conn,
                _LEASE,
                limit=_AT_ONCE - len(under_way),
                failing=_FAILING_AT_ONCE - num_failing,
            )

    def _deliver(self, delivery: DueDelivery) -> None:
        with structlog.contextvars.bound_contextvars(
            tenant_id=delivery.tenant_id,
            webhook_id=delivery.webhook_id,
            delivery_id=delivery.delivery_id,
            attempts=delivery.attempts,
        ):
            try:
                self._say(self._try(delivery))
            except TRANSIENT_ERRORS as error:
                log.warning("delivery_not_recorded", error=str(error))  # it is sent again
            except Exception:  # the thread's outermost frame
                log.exception("delivery_failed_unexpectedly")
                self._postpone(delivery, "internal_error")

    def _try(self, delivery: DueDelivery) -> str:
        """The outcome of one try."""
        try:
            signing = self._open(delivery)
        except SecretUnreadableError as error:
            log.error("secret_unreadable", reason=str(error))
            self._postpone(delivery, "secret_unreadable")
            return "secret_unreadable"
        answer = send(delivery, signing, self.allowed, timeout_s=self.timeout_s)
        fault_point("webhook.sent")
        with self.database.transaction() as conn:
            is_recorded = webhook_work.record(conn, delivery, answer)
        outcome = _outcome(answer)
        log.info(
            "delivery_tried",
            outcome=outcome,
            status_code=answer.status_code,
            is_recorded=is_recorded,
        )
        return outcome

    def _open(self, delivery: DueDelivery) -> list[SecretStr]:
        """The secrets that sign, the newest first. Raises SecretUnreadableError."""
        wanted = [delivery.secret_id, delivery.old_secret_id]
        with self.database.transaction() as conn:
            sealed = sealed_secrets.signing_secrets(
                conn, delivery.tenant_id, [each for each in wanted if each is not None]
            )
        if not sealed:
            raise SecretUnreadableError("the webhook was deleted")
        if self.keys is None:
            raise KeyMissingError(sealed[0].key_id)
        return [open_secret(each.envelope, each.place, self.keys) for each in sealed]

    def _postpone(self, delivery: DueDelivery, error: str) -> None:
        """The service could not try; that is no failure of the receiver."""
        with self.database.transaction() as conn:
            webhook_work.postpone(conn, delivery, error=error, pause=_POSTPONED)

    def _say(self, outcome: str) -> None:
        with self.said:
            self.outcomes.send_bytes(outcome.encode())


def _outcome(answer: Answer) -> str:
    if answer.is_good:
        return "succeeded"
    return answer.error or "refused"
