"""A process of its own that opens one secret, uses it and ends.

Python cannot wipe memory: what a process has held may be found in it until it ends. So the results
process holds sealed secrets only.
"""

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final, TypeVar

import structlog
from pydantic import SecretStr

from services.logs.setup import configure
from services.processes.core_dumps import forbid_core_dumps
from services.processes.launch import die_with_parent
from services.secrets.envelope import Envelope, KeyMissingError, SecretPlace, SecretUnreadableError
from services.secrets.opening import PrivateKeys, open_secret
from services.settings.env import Settings
from services.store.sealed_secrets import SealedSecret
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

W = TypeVar("W")
D = TypeVar("D")
_TICK_S: Final = 0.5


class ProcessEndedError(Exception):
    """The process ended without an answer, or was ended because it took too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """What the process opens, and where it comes from."""

    envelope: Envelope
    place: SecretPlace
    log_context: dict[str, Any]
    parent_pid: int

    @classmethod
    def of(cls, secret: SealedSecret) -> "Sealed":
        return cls(
            envelope=secret.envelope,
            place=secret.place,
            log_context=structlog.contextvars.get_contextvars(),
            parent_pid=os.getpid(),
        )


def in_own_process(
    act: Callable[[W], D],
    work: W,
    *,
    deadline_s: float = math.inf,
    is_stopping: Callable[[], bool] = lambda: False,
) -> D:
    """What ``act`` returns; both have to be picklable.

    Raises ProcessEndedError, also where it takes longer than ``deadline_s`` or this process stops.
    """
    own = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    answers, answer = own.Pipe(duplex=False)
    process = own.Process(target=_act, args=(act, work, answer), daemon=True)
    process.start()
    answer.close()
    ends_at = time.monotonic() + deadline_s
    try:
        while not wait([answers], _TICK_S):
            if time.monotonic() > ends_at or is_stopping():
                raise ProcessEndedError
        done: D = answers.recv()
    except EOFError:
        raise ProcessEndedError from None
    finally:
        answers.close()
        if process.is_alive():
            process.join(_TICK_S)
        process.kill()
        process.join()
    return done


def _act(act: Callable[[W], D], work: W, answer: Connection) -> None:
    answer.send(act(work))


def enter(sealed: Sealed) -> None:
    """The first thing that the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent decides
    die_with_parent(signal.SIGKILL, sealed.parent_pid)
    forbid_core_dumps()
    configure("results", Settings.from_env(os.environ).log_format)
    structlog.contextvars.bind_contextvars(**sealed.log_context)


def open_here(sealed: Sealed) -> SecretStr | Failure:
    """The value, or why it cannot be opened."""
    keys = Settings.from_env(os.environ).secrets_private_keys
    try:
        if keys is None:
            raise KeyMissingError(sealed.envelope.key_id)
        return open_secret(sealed.envelope, sealed.place, PrivateKeys.parse(keys))
    except SecretUnreadableError as error:
        log.error("secret_unreadable", secret_id=sealed.place.secret_id, reason=str(error))
        name = sealed.place.name
        return Failure(
            code="secret_unreadable",
            category=Category.PLATFORM,
            message=f"The service cannot open the secret {name}. Store it again.",
            retryable=isinstance(error, KeyMissingError),
        )


def missing(name: str, kind: str) -> Failure:
    """The secret was deleted, or is of another kind now."""
    return Failure(
        code="secret_missing",
        category=Category.USER,
        message=f"There is no secret {name} of the kind {kind} any more: store it again.",
        retryable=False,
    )
