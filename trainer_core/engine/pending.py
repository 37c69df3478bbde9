"""A step that was launched, and whose numbers the host has not read yet."""

from typing import Protocol

import torch

from trainer_core.engine.step_metrics import NUM_CHECKED, StepMetrics, metrics_of
from trainer_core.errors import NonFiniteLossError


class Pending(Protocol):
    """A launched step."""

    def is_done(self) -> bool:
        """Whether ``read`` returns at once."""

    def read(self) -> StepMetrics:
        """The step's metrics; waits for the device.

        Raises NonFiniteLossError where a loss or a gradient of this step, or of an earlier one, is
        not finite. The step has then changed nothing.
        """


class Finished:
    """A step whose numbers the host has already."""

    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics

    def is_done(self) -> bool:
        return True

    def read(self) -> StepMetrics:
        return self._metrics


class Health:
    """Whether all steps so far were finite. Once False, it stays so, and no step changes anything.

    The host may have launched further steps before it reads that one was not finite.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_healthy = torch.ones((), dtype=torch.bool, device=device)
        self._failure_was_read = False

    def note(self, numbers: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        """Include the numbers of a step; returns the flag, them and ``more``, all fp64.

        ``more``: numbers that need not be finite.
        """
        self.is_healthy &= numbers.isfinite().all()
        return torch.cat([self.is_healthy.double().view(1), numbers, more])

    @property
    def has_failed(self) -> bool:
        """Whether the host knows of a failure, and no later step counts yet."""
        return self._failure_was_read

    def failure_was_read(self) -> None:
        """The host knows, and has reported it: the next step that it launches counts again."""
        self._failure_was_read = True

    def before_launch(self) -> None:
        if self._failure_was_read:
            self.is_healthy.fill_(True)
            self._failure_was_read = False


class Launched:
    """A step on its way through the device."""

    def __init__(
        self,
        step: int,
        report: torch.Tensor,
        health: Health,
        *,
        has_balance: bool,
        is_partial: bool = False,
    ) -> None:
        """
        Args:
            step: number of the step, from 1.
            report: what ``Health.note`` returned for it; later steps may overwrite it.
            health: told where the step was not finite.
            has_balance: whether the step has a balancing loss.
            is_partial: whether some weights may be updated where the step was not finite.
        """
        self._is_partial = is_partial
        self._step = step
        self._health = health
        self._has_balance = has_balance
        # Into pinned memory if it is on cuda, so that the host need not wait now.
        self._report = report.to("cpu", non_blocking=True, copy=True)
        self._copied: torch.cuda.Event | None = None
        if report.is_cuda:
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._copied.record()

    def is_done(self) -> bool:
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def read(self) -> StepMetrics:
        if self._copied is not None:
            self._copied.synchronize()
        is_healthy, *numbers = self._report.tolist()
        try:
            metrics = metrics_of(
                self._step,
                numbers[:NUM_CHECKED],
                numbers[NUM_CHECKED:],
                has_balance=self._has_balance,
                is_partial=self._is_partial,
            )
            if not is_healthy:
                raise NonFiniteLossError(f"step {self._step}: no update, as of an earlier step")
        except NonFiniteLossError:
            self._health.failure_was_read()
            raise
        return metrics
