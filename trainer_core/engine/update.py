"""The end of a step on the device: check, clip, optimizer, running mean."""

from collections.abc import Mapping
from typing import Final

import torch

from trainer_core.config.plan import Clip
from trainer_core.engine.graphs import Run, Work
from trainer_core.engine.pending import Health
from trainer_core.engine.step_metrics import NUM_REPORTED, StepMeans
from trainer_core.errors import CheckpointError
from trainer_core.optim.clip import clip_gradients, largest_gradient
from trainer_core.optim.ema import Ema
from trainer_core.optim.guarded import GuardedOptimizer
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.state import GROUP_TENSOR

_PREVIOUS_NORM: Final = f"{GROUP_TENSOR}previous_norm"


class Update:
    """Applies the gradients of a step, unless a number of it is not finite.

    ``apply`` reads and writes tensors that stay where they are, so a graph may capture it, unless
    it ``asks_host``.
    """

    is_partial = False
    """Whether a step that is not finite may have changed some of the weights."""

    def __init__(
        self,
        parameters: ParameterTensors,
        optimizer: GuardedOptimizer,
        ema: Ema | None,
        clip: Clip | None,
        means: StepMeans,
    ) -> None:
        """``means``: filled by the micro-batches of a step, and cleared by ``apply``."""
        self._parameters = parameters
        self._optimizer = optimizer
        self._ema = ema
        self._clip = clip
        self._means = means
        device = means.flow.device
        self.health = Health(device)
        self._numbers = torch.zeros(len(self._numbers_of(1, 0.0)), device=device)
        self.report = torch.zeros(1 + NUM_REPORTED, dtype=torch.float64, device=device)
        """What ``Health.note`` returned for the last step."""
        self.previous_norm = torch.zeros((), device=device)
        """The norm of the last healthy step's gradient; 0 before the first, which clips nothing."""

    @property
    def asks_host(self) -> bool:
        """Whether ``apply`` waits for the device, for the optimizer or for a mean on the host."""
        return self._optimizer.asks_host or (self._ema is not None and self._ema.asks_host)

    def prepare(self, step: int, learning_rate: float) -> None:
        """Send the numbers of a step to the device."""
        self.health.before_launch()
        numbers = torch.tensor(
            self._numbers_of(step, learning_rate), pin_memory=self._numbers.is_cuda
        )
        self._numbers.copy_(numbers, non_blocking=True)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a micro-batch's share of the loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def apply(self) -> None:
        """Update the parameters, and clear gradients and means."""
        largest, norm = self._gradient_size()
        numbers = self._means.numbers(largest)
        self.report.copy_(self.health.note(numbers, self._means.more_numbers(norm)))
        self._update()
        norm = norm.to(self.previous_norm.dtype)
        torch.where(self.health.is_healthy, norm, self.previous_norm, out=self.previous_norm)
        if self._ema is not None:
            self._ema.update(self._numbers[0], self.health.is_healthy)
        self.clear()

    def _gradient_size(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Largest element and norm of all gradients, which are clipped afterwards."""
        leaves = self._parameters.leaves
        largest = largest_gradient(leaves)
        return largest, clip_gradients(leaves, self._clip, self.previous_norm)

    def _update(self) -> None:
        self._optimizer.update(self._numbers[1:], self.health.is_healthy)

    def state(self) -> dict[str, torch.Tensor]:
        """What a step reads of the one before, by keys of ``optim.state``."""
        is_read = self._clip is not None and self._clip.method == "previous_norm"
        return {_PREVIOUS_NORM: self.previous_norm.clone()} if is_read else {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Restore what ``state`` returned; returns the other tensors.

        Raises CheckpointError where it is missing.
        """
        others = dict(tensors)
        for name, value in self.state().items():
            saved = others.pop(name, None)
            if saved is None or saved.shape != value.shape:
                raise CheckpointError("the checkpoint has no norm of the last step's gradient")
            self.previous_norm.copy_(saved)
        return others

    def work(self) -> Work:
        """``apply``, for a graph."""
        changed = [*self.accumulated(), self.health.is_healthy, self.previous_norm]
        return Work(key="update", run=self.apply, rehearse=self._rehearse, changed=changed)

    def _rehearse(self) -> None:
        """After a step that is not healthy, ``apply`` changes nothing but the sums."""
        self.health.is_healthy.fill_(False)
        self.apply()

    def rehearsed(self, run: Run) -> Run:
        """``run``, the backward pass of a micro-batch, for the rehearsal of a graph."""
        return run

    def accumulated(self) -> list[torch.Tensor]:
        """The sums over micro-batches: gradients and means."""
        gradients = (leaf.grad for leaf in self._parameters.leaves)
        kept = [gradient for gradient in gradients if gradient is not None]
        return [*kept, self._means.sums]

    def clear(self) -> None:
        """Forget the gradients and the means of a step."""
        self._parameters.clear_gradients()
        self._means.clear()

    def _numbers_of(self, step: int, learning_rate: float) -> tuple[float, ...]:
        share = 0.0 if self._ema is None else self._ema.share(step)
        return share, *self._optimizer.numbers(step, learning_rate)
