"""The steps and epochs that a data backend is trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

from trainer_core.config.plan.identity import Backend


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """When a backend is trained on. Steps and epochs count from 1; both ends are included."""

    start_step: int = 1
    start_epoch: int = 1
    end_step: int | None = None
    end_epoch: int | None = None

    def holds(self, step: int, epoch: int) -> bool:
        """Whether the backend is trained on in a step of an epoch."""
        return self.may_hold(step) and (
            self.start_epoch <= epoch and (self.end_epoch is None or epoch <= self.end_epoch)
        )

    def may_hold(self, step: int) -> bool:
        """Whether the backend is trained on in a step, if the epoch is right."""
        return self.start_step <= step and (self.end_step is None or step <= self.end_step)

    def in_words(self) -> str:
        """Such as ``starts at step 10 and ends after step 300``."""
        parts = []
        if self.start_step > 1:
            parts.append(f"starts at step {self.start_step}")
        if self.start_epoch > 1:
            parts.append(f"starts with epoch {self.start_epoch}")
        if self.end_step is not None:
            parts.append(f"ends after step {self.end_step}")
        if self.end_epoch is not None:
            parts.append(f"ends after epoch {self.end_epoch}")
        return " and ".join(parts) or "is trained on all the time"


def window_of(backend: Backend) -> Window:
    """When a backend is trained on."""
    return Window(
        start_step=backend.start_step,
        start_epoch=backend.start_epoch,
        end_step=backend.end_step,
        end_epoch=backend.end_epoch,
    )


def idle_message(step: int, backends: Iterable[Backend]) -> str:
    """That no backend is trained on at a step, for a problem; ``backends``: those to train on."""
    each = "; ".join(f"{backend.id} {window_of(backend).in_words()}" for backend in backends)
    return (
        f"No data backend is trained on at step {step}: {each}. Let one of them start earlier or "
        "end later."
    )
