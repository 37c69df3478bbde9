"""The plan: a run with every setting resolved.

Two plans with equal identities give equal weights on equal data.
"""

from collections.abc import Mapping
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
        The name of the base model may change, because its digest identifies it. The ranks stand in
        ``accumulation_steps``, as ``with_whole_steps`` has them.
        ``precision.matmul`` is compared with what the checkpoint's run picked
        (``checkpoint.matmul``).
        """
        identity = self.identity.model_dump(mode="json")
        for name in ("max_train_steps", "num_train_epochs"):
            if identity.get(name) is None or not self.identity.schedule.follows_length:
                identity.pop(name, None)
        del identity["base"]["name"], identity["precision"]["matmul"]
        return with_whole_steps(identity)


def with_whole_steps(identity: Mapping[str, Any]) -> dict[str, JsonValue]:
    """An identity as JSON with all micro-batches of a step accumulated by one rank.

    Their number is what changes the weights, and not how many ranks share them.
    """
    micro_batches = identity["accumulation_steps"] * identity["world_size"]
    return {**identity, "accumulation_steps": micro_batches, "world_size": 1}
