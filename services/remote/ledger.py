"""The ledger over HTTPS: one request for each method."""

import random
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import httpx
from pydantic import TypeAdapter

from services.client.call import Call
from services.domain.ledger import (
    CachedShard,
    ChildEvent,
    Claim,
    LedgerDownError,
    Outcome,
    Printed,
    Renewal,
    StoredCheckpoint,
    StoredFiles,
    Worker,
)
from services.domain.storable_json import storable
from services.remote.session import PATH, Held, WorkerSession, run_path
from trainer_core.process.failure import Failure, failure_as_json

_CLAIM: Final[TypeAdapter[Claim | None]] = TypeAdapter(Claim | None)
_RENEWAL: Final = TypeAdapter(Renewal)
_MOST_EVENTS: Final = 1000
_LONGEST_MESSAGE: Final = 4000
_CLAIM_PAUSE_S: Final = 0.5


def ledger_timeout(lease_s: float) -> httpx.Timeout:
    """Of the session: a renewal that hangs is sent again before the lease has run out."""
    return httpx.Timeout(min(15.0, lease_s / 2), connect=min(5.0, lease_s / 2))


class HttpLedger:
    """Implements ``services.domain.ledger.Ledger``; safe to share among threads."""

    def __init__(self, session: WorkerSession) -> None:
        self._session = session

    def register(
        self,
        worker: Worker,
        *,
        draining: bool,
        run_id: str | None,
        drain_reason: Failure | None = None,
    ) -> None:
        """Refresh the heartbeat. The service itself knows which run the worker holds."""
        del run_id
        body = {
            "version": worker.version,
            "draining": draining,
            "drain_reason": None if drain_reason is None else _failure(drain_reason),
        }
        self._session.send(Call(method="PUT", path=PATH, body=body, read=lambda _: None))

    def claim(self, run_id: str, *, worker_id: str, lease: timedelta) -> Claim | None:
        """Claim the run that this worker is offered; None where it cannot be claimed.

        The request has an id, so it is repeated here until it is answered, for half a lease.
        """
        del worker_id  # the key says who asks
        call = Call(
            method="POST",
            path=run_path(run_id, "claim"),
            body={"lease_s": lease.total_seconds(), "claim_id": uuid.uuid4().hex},
            read=lambda answer: _CLAIM.validate_json(answer.content),
        )
        claim = self._until_answered(call, within_s=lease.total_seconds() / 2)
        if claim is not None:
            self._session.held = Held(run_id=claim.run_id, fence=claim.fence)
        return claim

    def _until_answered(self, call: Call[Claim | None], *, within_s: float) -> Claim | None:
        until_s = time.monotonic() + within_s
        while True:
            try:
                return self._session.send(call)
            except LedgerDownError:
                if time.monotonic() > until_s or self._session.is_refused:
                    raise
            time.sleep(_CLAIM_PAUSE_S * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    def renew(self, run_id: str, fence: int, *, lease: timedelta) -> Renewal:
        """Extend the lease, by no more than the service's own."""
        answer = self._ask("renew", run_id, fence, {"lease_s": lease.total_seconds()})
        return _RENEWAL.validate_python(answer)

    def event(self, run_id: str, fence: int, events: Sequence[ChildEvent]) -> None:
        """Store the child's events in order."""
        for start in range(0, len(events), _MOST_EVENTS):
            bodies = [
                {
                    "type": each.type,
                    "step": each.step,
                    "data": storable(each.data),
                    "number": each.number,
                }
                for each in events[start : start + _MOST_EVENTS]
            ]
            self._ask("event", run_id, fence, {"events": bodies})

    def log(self, run_id: str, fence: int, printed: Printed) -> None:
        """Store a piece of the attempt's output."""
        body = {
            "start_byte": printed.start_byte,
            "num_bytes": printed.num_bytes,
            "text": printed.text,
        }
        self._ask("log", run_id, fence, body)

    def commit_checkpoint(self, run_id: str, fence: int, checkpoint: StoredCheckpoint) -> None:
        """Record a stored checkpoint."""
        body = {"step": checkpoint.step, "files": _files(checkpoint.files)}
        self._ask("commit-checkpoint", run_id, fence, body)

    def commit_result(self, run_id: str, fence: int, result: StoredFiles, *, step: int) -> None:
        """End the run with this result."""
        self._ask("commit-result", run_id, fence, {"step": step, "files": _files(result)})

    def rebuild_shard(self, run_id: str, fence: int, shard: CachedShard) -> bool:
        """Have a damaged shard built again; the service has then deleted its files, too."""
        body = {
            "digest": shard.digest,
            "kind": shard.kind,
            "manifest_sha256": shard.manifest_sha256,
            "size_bytes": shard.size_bytes,
        }
        return bool(self._ask("rebuild-shard", run_id, fence, body)["is_first"])

    def hand_back(self, run_id: str, fence: int, outcome: Outcome, failure: Failure | None) -> None:
        """End the attempt without a result."""
        body = {
            "outcome": outcome.value,
            "failure": None if failure is None else _failure(failure),
        }
        self._ask("hand-back", run_id, fence, body)

    def _ask(self, action: str, run_id: str, fence: int, body: dict[str, Any]) -> dict[str, Any]:
        return self._session.ask(action, Held(run_id=run_id, fence=fence), body)


def _files(files: StoredFiles) -> dict[str, Any]:
    return {
        "key_prefix": files.key_prefix,
        "manifest_sha256": files.manifest_sha256,
        "size_bytes": files.size_bytes,
    }


def _failure(failure: Failure) -> Any:
    body = failure_as_json(failure)
    return storable({**body, "message": str(body["message"])[:_LONGEST_MESSAGE]})
