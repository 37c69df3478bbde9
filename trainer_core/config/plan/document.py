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
    """Everything that changes the trained weights. A run resumes only with an equal digest."""
    operation: Operation
    """Everything else."""

    @model_validator(mode="before")
    @classmethod
    def _without_deferred(cls, raw: Any) -> Any:
        """Drop ``deferred`` of older plans: stored options without effect."""
        if isinstance(raw, dict):
            return {key: value for key, value in raw.items() if key != "deferred"}
        return raw

    def identity_digest(self) -> str:
        """SHA-256 of ``guarded_identity``; a resume requires an equal digest."""
        return digest_of(self.guarded_identity())

    def guarded_identity(self) -> dict[str, JsonValue]:
        """The identity as JSON, without the fields that may change before a resume.

        The length may change where the learning-rate schedule does not depend on it. A length in
        epochs is guarded as such: its number of steps follows from the data, which is guarded too.
        The name of the base model may change, because its digest identifies it.
        ``precision.matmul`` is compared with what the checkpoint's run picked
        (``checkpoint.matmul``).
        """
        identity = self.identity.model_dump(mode="json")
        for name in ("max_train_steps", "num_train_epochs"):
            if identity.get(name) is None or not self.identity.schedule.follows_length:
                identity.pop(name, None)
        del identity["base"]["name"], identity["precision"]["matmul"]
        return identity
