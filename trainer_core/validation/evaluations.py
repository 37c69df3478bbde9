"""The evaluation losses that a run has measured so far, and the best of them. Imports no torch."""

from typing import Final, Self

from pydantic import JsonValue, ValidationError

from trainer_core.config.plan.frozen import Frozen, Many

_KEPT: Final = 100


class Evaluated(Frozen):
    """One measurement."""

    step: int
    mean: float | None
    """None: a loss was not finite."""
    low: float | None
    high: float | None


class Evaluations(Frozen):
    """The measurements of a run up to its current step; a checkpoint holds them."""

    basis: str
    """Digest of what is measured: only measurements on the same are compared."""
    newest: Many[Evaluated] = ()
    """At most 100, in order of their steps."""
    best: Evaluated | None = None
    """That with the lowest mean, and of equal ones the first; None where none is finite."""
    best_checkpoint: Evaluated | None = None
    """The same among those at whose step a checkpoint was written."""

    @property
    def step(self) -> int | None:
        """That of the last measurement; None without any."""
        return self.newest[-1].step if self.newest else None

    def as_facts(self) -> dict[str, JsonValue]:
        """What a model card shows."""
        best, saved = self.best, self.best_checkpoint
        return {
            "best_step": None if best is None else best.step,
            "best_checkpoint_step": None if saved is None else saved.step,
            "measured": [each.model_dump(mode="json") for each in self.newest],
        }

    def with_newest(self, found: Evaluated) -> Self:
        """With one more measurement."""
        return self.model_copy(
            update={
                "newest": (*self.newest, found)[-_KEPT:],
                "best": _better(self.best, found),
            }
        )

    def with_checkpoint(self, step: int) -> Self:
        """Where the last measurement was made at this step: with a checkpoint of it."""
        if self.step != step:
            return self
        return self.model_copy(
            update={"best_checkpoint": _better(self.best_checkpoint, self.newest[-1])}
        )


def evaluations_in(value: JsonValue, basis: str) -> Evaluations:
    """Those that a checkpoint holds; none where it holds none, or of something else."""
    empty = Evaluations(basis=basis)
    try:
        found = Evaluations.model_validate(value)
    except ValidationError:
        return empty
    return found if found.basis == basis else empty


def _better(best: Evaluated | None, found: Evaluated) -> Evaluated | None:
    if found.mean is None:
        return best
    if best is None or best.mean is None or found.mean < best.mean:
        return found
    return best
