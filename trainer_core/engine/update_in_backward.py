"""Updates each weight as soon as the backward pass has its gradient, and frees the gradient.

No buffer holds all gradients: only one, or a few, exist at a time. A step is one micro-batch.

The loss is checked before the first update, each gradient before its own. Where a gradient is not
finite, weights whose gradients came before it were updated already: the run has to go on from its
last checkpoint.
"""

from functools import partial
from typing import Final

import torch

from trainer_core.config.plan import Clip
from trainer_core.engine.graphs import Run
from trainer_core.engine.step_metrics import StepMeans
from trainer_core.engine.update import Update
from trainer_core.errors import NonFiniteLossError
from trainer_core.optim.clip import clip_one
from trainer_core.optim.ema import Ema
from trainer_core.optim.guarded import LeafOptimizer
from trainer_core.optim.separate import SeparateParameters


class UpdateInBackward(Update):
    """The ``Update`` whose weights change within the backward pass."""

    is_partial = True

    def __init__(
        self,
        parameters: SeparateParameters,
        optimizer: LeafOptimizer,
        ema: Ema | None,
        clip: Clip | None,
        means: StepMeans,
    ) -> None:
        """``parameters``: whose gradients are freed by ``clear_gradients``."""
        super().__init__(parameters, optimizer, ema, clip, means)
        self._leaf_optimizer: Final = optimizer
        count, device = len(parameters.leaves), means.flow.device
        self._largest = torch.zeros(count, device=device)
        self._norms = torch.zeros(count, device=device)
        self._left: set[int] = set()
        for number, leaf in enumerate(parameters.leaves):
            take = partial(self._take, number)
            leaf.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]

    def prepare(self, step: int, learning_rate: float) -> None:
        """Raises NonFiniteLossError after a failure, which left the weights partly updated."""
        if self.health.has_failed:
            raise NonFiniteLossError(
                f"step {step}: an earlier step failed within its update. Go on from the last "
                "checkpoint."
            )
        super().prepare(step, learning_rate)

    def backward(self, loss: torch.Tensor) -> None:
        self.health.is_healthy &= loss.detach().isfinite()
        self._leaf_optimizer.begin(self._numbers[1:])
        self._left = set(range(len(self._parameters.leaves)))
        loss.backward()  # type: ignore[no-untyped-call]
        for number in sorted(self._left):  # what the loss does not depend on has a gradient of 0
            leaf = self._parameters.leaves[number]
            leaf.grad = torch.zeros_like(leaf)
            self._take(number, leaf)

    @torch.no_grad()
    def _take(self, number: int, leaf: torch.Tensor) -> None:
        """Update a leaf with its gradient, which is complete."""
        gradient = leaf.grad
        assert gradient is not None
        self._left.remove(number)
        largest, norm = clip_one(gradient, self._clip, self.previous_norm)
        self._largest[number], self._norms[number] = largest, norm
        self.health.is_healthy &= largest.isfinite()
        self._leaf_optimizer.update_leaves((number,), self._numbers[1:], self.health.is_healthy)
        leaf.grad = None

    def _gradient_size(self) -> tuple[torch.Tensor, torch.Tensor]:
        norm: torch.Tensor = torch.linalg.vector_norm(self._norms)
        return self._largest.max(), norm

    def _update(self) -> None:
        self._leaf_optimizer.end(self.health.is_healthy)

    def rehearsed(self, run: Run) -> Run:
        def rehearse() -> None:
            self.health.is_healthy.fill_(False)
            run()

        return rehearse

    def accumulated(self) -> list[torch.Tensor]:
        """The sums of a step, and the flag: a rehearsal changes no weight and no state."""
        return [self._means.sums, self._largest, self._norms, self.health.is_healthy]
