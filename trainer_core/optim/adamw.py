"""AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101), as torch and as optimi compute it.

The two differ in where they correct the bias of the moments, which is a difference in rounding
only. A checkpoint has the count of updates where each library keeps it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from trainer_core.config.plan import OptimizerPlan
from trainer_core.errors import CheckpointError
from trainer_core.optim.guarded import Guard, load_moments, moment_tensors, updated_pieces
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.rounding import NUM_WORDS, Rounding
from trainer_core.optim.state import GROUP_TENSOR, TENSOR

_STEP: Final = "step"


class AdamW:
    """With gradient g, moments m and v, value p, and the ``_numbers`` of the step:

    - m ← m + mean_share · (g - m)
    - v ← v · square_kept + g² · square_share
    - p ← p · value_kept - rate · m / (√v / root + eps)
    """

    asks_host: Final = False
    fields: Final = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, parameters: ParameterTensors, plan: OptimizerPlan, rounding: Rounding | None = None
    ) -> None:
        """``plan.name`` chooses the library; ``rounding``: of leaves in bf16, fields as here."""
        self._rounding = rounding
        self._parameters = parameters
        self._plan = plan
        self._library = _LIBRARIES[plan.name]
        self._moments: Final = {
            field: [torch.zeros_like(leaf, requires_grad=False) for leaf in parameters.leaves]
            for field in self.fields
        }
        device = parameters.leaves[0].device
        self._count: Final = torch.zeros((), dtype=self._library.count_type, device=device)

    def numbers(self, step: int, learning_rate: float) -> tuple[float, ...]:
        numbers = self._library.numbers(step, learning_rate, self._plan)
        return numbers if self._rounding is None else (*numbers, *self._rounding.words(step))

    def update(self, numbers: torch.Tensor, is_healthy: torch.Tensor) -> None:
        self.begin(numbers)
        self.update_leaves(range(len(self._parameters.leaves)), numbers, is_healthy)
        self.end(is_healthy)

    def begin(self, numbers: torch.Tensor) -> None:
        if self._rounding is not None:
            self._rounding.begin(numbers[-NUM_WORDS:])

    @torch.no_grad()
    def update_leaves(
        self, leaves: Iterable[int], numbers: torch.Tensor, is_healthy: torch.Tensor
    ) -> None:
        guard = Guard(is_healthy)
        if guard.is_shut:
            return
        value_kept, mean_share, square_kept, square_share, root, rate = numbers[:6].unbind()
        for piece in updated_pieces(self._parameters, self._moments.values(), leaves):
            gradient, (mean, square, value) = piece.gradient, piece.values
            new_mean = torch.lerp(mean, gradient, mean_share, out=piece.place(0, guard))
            # Factors are multiplied in the order of the libraries' scalar arguments: same bits.
            new_square = torch.mul(square, square_kept, out=piece.place(1, guard))
            new_square.addcmul_(gradient * square_share, gradient)
            size = new_square.sqrt().div_(root).add_(self._plan.eps)
            new_value = torch.mul(value, value_kept, out=piece.place(2, guard))
            new_value.addcdiv_(new_mean * -rate, size)
            piece.write(guard, self._rounding, new_mean, new_square, new_value)

    def end(self, is_healthy: torch.Tensor) -> None:
        self._count.add_(is_healthy)

    def state(self) -> dict[str, torch.Tensor]:
        count = self._count.cpu()
        counts = {key: count.clone() for key in self._count_keys()}
        return moment_tensors(self._parameters, self._moments) | counts

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        load_moments(self._parameters, self._moments, tensors)
        for key in self._count_keys():
            if key not in tensors:
                raise CheckpointError(f"the checkpoint has no count of updates {key}")
            self._count.copy_(tensors[key])

    def _count_keys(self) -> tuple[str, ...]:
        if self._library.has_one_count:
            return (GROUP_TENSOR + _STEP,)
        return tuple(f"{TENSOR}{name}/{_STEP}" for name in self._parameters.named)


def _torch_numbers(step: int, learning_rate: float, plan: OptimizerPlan) -> tuple[float, ...]:
    """As ``torch.optim.AdamW``: the moments are biased, rate and root correct it."""
    beta1, beta2 = plan.betas
    root = (1 - beta2**step) ** 0.5
    rate = learning_rate / (1 - beta1**step)
    return 1 - learning_rate * plan.weight_decay, 1 - beta1, beta2, 1 - beta2, root, rate


def _optimi_numbers(step: int, learning_rate: float, plan: OptimizerPlan) -> tuple[float, ...]:
    """As ``optimi.AdamW``: the betas are corrected, so the moments have no bias."""
    beta1, beta2 = ((beta**step - beta) / (beta**step - 1) for beta in plan.betas)
    kept = 1 - learning_rate * plan.weight_decay
    return kept, 1 - beta1, beta2, 1 - beta2, 1.0, learning_rate


@dataclass(frozen=True, slots=True)
class _Library:
    """What differs between the libraries."""

    numbers: Callable[[int, float, OptimizerPlan], tuple[float, ...]]
    """value_kept, mean_share, square_kept, square_share, root and rate of a step."""
    count_type: torch.dtype
    has_one_count: bool
    """Whether a checkpoint has one count of updates, or one for each parameter."""


_LIBRARIES: Final[Mapping[str, _Library]] = {
    "adamw": _Library(_torch_numbers, torch.float32, has_one_count=False),
    "optimi-adamw": _Library(_optimi_numbers, torch.int32, has_one_count=True),
}
