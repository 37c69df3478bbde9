"""The plan: a run with every setting resolved.

Two plans with equal identities give equal weights on equal data.
"""

from typing import Any, Literal

from pydantic import JsonValue, model_validator

from trainer_core.config.plan.frozen import Frozen, digest_of
from trainer_core.config.plan.identity import Identity
from trainer_core.config.plan.operation import Operation


class Plan(Frozen):
    """One run, complete."""

    version: Literal[1] = 1
    identity: Identity
    """Everything that changes the numbers. A run resumes only under an equal identity digest."""
    operation: Operation
    """Everything else."""

    @model_validator(mode="before")
    @classmethod
    def _without_deferred(cls, raw: Any) -> Any:
        """Older plans also hold ``deferred``: options that were stored and that nothing reads."""
        if isinstance(raw, dict):
            return {key: value for key, value in raw.items() if key != "deferred"}
        return raw

    def identity_digest(self) -> str:
        """SHA-256 of what has to be equal for a resume; equal runs have the same digest."""
        return digest_of(self.guarded_identity())

    def guarded_identity(self) -> dict[str, JsonValue]:
        """The identity as JSON, without what may change before a resume.

        ``max_train_steps`` may change where the schedule does not depend on it: the run is
        prolonged. The name of the base model may change, since its digest says which model it is.
        """
        prolongs = not self.identity.schedule.follows_length
        identity = self.identity.model_dump(
            mode="json", exclude={"max_train_steps"} if prolongs else set()
        )
        del identity["base"]["name"]
        return identity
