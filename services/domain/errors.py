"""All domain errors, each with a stable code and its details. HTTP statuses are set by the API."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.quotas import ALLOWS, WAY_OUT
from trainer_core.process.failure import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with a request."""

    pointer: str
    """JSON Pointer (RFC 6901) into the request body, or a file path for uploaded files."""
    code: str
    message: str


class DomainError(Exception):
    """A request that the rules of the service forbid."""

    code = "domain_error"


class IllegalTransitionError(DomainError):
    """A run has no transition from its status to the one that was requested."""

    code = "illegal_move"

    def __init__(self, *, here: str, there: str) -> None:
        super().__init__(f"a {here} run cannot become {there}")
        self.here, self.there = here, there


class RunOverError(DomainError):
    """The run has ended: of what can be changed, only its metadata still can."""

    code = "run_over"

    def __init__(self, status: str) -> None:
        super().__init__(f"the run is {status}: only its metadata can be changed")


class NotFoundError(DomainError):
    """It does not exist or is another tenant's; the two cases are not distinguished on purpose."""

    code = "not_found"

    def __init__(self, kind: str, id_: str) -> None:
        super().__init__(f"no {kind} {id_}")
        self.kind, self.id = kind, id_


class LeaseLostError(DomainError):
    """The attempt no longer holds the run: stop at once and write nothing more."""

    code = "lease_lost"

    def __init__(self, *, run_id: str, fence: int) -> None:
        super().__init__(f"run {run_id} is no longer held under fence {fence}")
        self.run_id, self.fence = run_id, fence


class InvalidRequestError(DomainError):
    """The request is well-formed but invalid; ``problems`` lists what is wrong."""

    code = "invalid_request"

    def __init__(self, problems: Sequence[Problem], *, total: int | None = None) -> None:
        """``total``: how many there are where ``problems`` are only the first ones."""
        super().__init__("; ".join(p.message for p in problems))
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total


class IdempotencyMismatchError(DomainError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_key_reused"


class IdempotencyInFlightError(DomainError):
    """A request with this Idempotency-Key is still being worked on."""

    code = "idempotency_in_flight"


class DatasetNotOpenError(DomainError):
    """Files can be added to a dataset only until it is completed."""

    code = "dataset_not_open"


class DatasetIncompleteError(DomainError):
    """Files that were declared are not stored yet; ``problems`` names the first hundred."""

    code = "dataset_incomplete"

    def __init__(self, num_missing: int, problems: Sequence[Problem]) -> None:
        super().__init__(f"{num_missing} of the declared files were not uploaded")
        self.problems = tuple(problems)


class StillNeededError(DomainError):
    """It cannot be deleted yet: it is a run that is not over, or such a run needs it."""

    code = "still_needed"


class LastOwnerError(DomainError):
    """A tenant keeps at least one owner."""

    code = "last_owner"


class KeyNotActiveError(DomainError):
    """The API key has expired or was rotated before; the message says what to use."""

    code = "key_not_active"


class WebhookDisabledError(DomainError):
    """Nothing is sent to a webhook that is disabled."""

    code = "webhook_disabled"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(
            f'the webhook is disabled: PATCH /v1/webhooks/{webhook_id} with {{"enabled": true}}'
        )


class QuotaExceededError(DomainError):
    """One of the tenant's quotas does not allow more; ``problems`` names the quota."""

    code = "quota_exceeded"

    def __init__(self, quota: str, *, limit: float, used: float, added: float) -> None:
        """``added`` is what the request asked for; 0 where it only needs the quota to hold."""
        message = (
            f"The quota {quota} allows {limit:,} {ALLOWS[quota]} (used: {used:,}, "
            f"asked for: {added:,}). "
            f"{WAY_OUT[quota]}, or ask the operator of the service for a larger quota."
        )
        super().__init__(message)
        self.quota, self.limit, self.used, self.added = quota, limit, used, added
        self.problems = (Problem(pointer=f"quota:{quota}", code=self.code, message=message),)


class LimitReachedError(DomainError):
    """The run has reached one of its limits; ``problems`` names it. Raise it, then resume."""

    code = "limit_reached"

    def __init__(self, reason: Failure) -> None:
        """``reason``: the ``status_reason`` of a run that is paused at this limit."""
        super().__init__(reason.message)
        self.problems = (
            Problem(pointer=f"limit:{reason.code}", code=reason.code, message=reason.message),
        )
