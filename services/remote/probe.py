"""The first question to the service: who am I? What can be wrong is said in words here."""

import time
from dataclasses import dataclass, fields
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

from services.client.call import get
from services.client.errors import ClientError, ProblemError, ServiceUnreachableError
from services.domain.worker_protocol import WORKER_PROTOCOL
from services.remote.session import KEY_REFUSED, PATH, WorkerSession

_MOST_OFF_S: Final = 300


class CannotJoinError(ClientError):
    """This worker cannot work for this service; the message says why, and the way out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What the worker's key fixes, and the service's times in seconds."""

    worker_id: str
    gpu_class: str
    node: str
    lease_s: float
    renew_s: float
    orphan_s: float
    cancel_s: float
    heartbeat_s: float


def probe(session: WorkerSession) -> Identity:
    """What this worker is. Raises CannotJoinError for a wrong address, key, version or clock."""
    try:
        answer: dict[str, Any] = session.ask_as_client(get(PATH))
    except ServiceUnreachableError as error:
        raise CannotJoinError(f"{error}{_hint(error)}") from error
    except ProblemError as error:
        raise CannotJoinError(_refusal(error)) from error
    _check_version(answer)
    _check_clock(answer)
    return Identity(**{each.name: answer[each.name] for each in fields(Identity)})


def _hint(error: ServiceUnreachableError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            ". Its certificate is not trusted: look at the clock of this machine, or name the "
            "certificate of its authority with --ca-file."
        )
    return ". Look at the address after --join, and at the network of this machine."


def _refusal(error: ProblemError) -> str:
    if error.code == "wrong_key":
        return "REVERIE_WORKER_KEY is a key of another kind; a worker's begins with rvw_."
    if error.code in KEY_REFUSED:
        return (
            "The service refuses this worker's key: it is unknown, revoked or expired. Ask the "
            "operator for a new one (`reverie admin worker-keys create`)."
        )
    if error.status in (404, 405):
        return (
            "What answers there has no remote workers: look at the address after --join, and at "
            "the version of the service."
        )
    return f"The service cannot be joined now: {error}"


def _check_version(answer: dict[str, Any]) -> None:
    if answer.get("protocol") != WORKER_PROTOCOL:
        raise CannotJoinError(
            f"This machine has Reverie {version('reverie')}, the service {answer.get('version')}, "
            "and they do not understand each other: install the service's version here."
        )


def _check_clock(answer: dict[str, Any]) -> None:
    off_s = time.time() - datetime.fromisoformat(answer["now"]).timestamp()
    if abs(off_s) > _MOST_OFF_S:
        raise CannotJoinError(
            f"The clock of this machine differs from the service's by {abs(off_s):.0f} s: set it, "
            "and see that NTP keeps it right."
        )
