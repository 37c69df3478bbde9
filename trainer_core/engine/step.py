"""One optimizer step in one process, on trained parameters beside a frozen base."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from trainer_core.adapters.attach import Adapter
from trainer_core.checkpoint.read import Checkpoint
from trainer_core.config.plan import Identity
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import batch_losses
from trainer_core.errors import CheckpointError, NonFiniteLossError
from trainer_core.faultpoints import fault_point
from trainer_core.optim.build import build_optimizer, set_learning_rate
from trainer_core.optim.clip import clip_gradients, largest_gradient
from trainer_core.optim.state import load_state_tensors, state_tensors
from trainer_core.precision.compute import Compute


@dataclass(frozen=True, slots=True)
class StepScalars:
    """What a step tells, still on the device: reading it waits for the step."""

    loss: torch.Tensor
    """Mean over the step's samples, before the update."""
    grad_max: torch.Tensor
    """Largest absolute element before clipping."""

    def check(self, step: int) -> tuple[float, float]:
        """Both as floats; raises NonFiniteLossError that names the step."""
        loss, grad_max = self.loss.item(), self.grad_max.item()
        if not torch.isfinite(torch.tensor([loss, grad_max])).all():
            raise NonFiniteLossError(
                f"step {step}: loss {loss}, largest gradient {grad_max}; no update was made. "
                "Lower the learning rate, or clip gradients."
            )
        return loss, grad_max


class Backend(Protocol):
    """How steps are carried out: in one process, or sharded over several."""

    rank: int
    ranks: int
    """Processes that share a step's micro-batches."""

    def losses(self, batch: Batch) -> torch.Tensor:
        """Loss of each sample [B], fp32; with the graph that training needs."""

    def update(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> StepScalars:
        """Take this rank's share of ``count`` micro-batches through the model and update once."""

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Trained parameters and optimizer state, whole, by logical name. Every rank calls it."""

    def load(self, checkpoint: Checkpoint) -> None:
        """The opposite of ``tensors``; raises CheckpointError."""

    def latest_of(self, order: int) -> int:
        """The largest of what the ranks bring: what one has been told, all do."""

    def forget_gradients(self) -> None:
        """Drop what an abandoned step has accumulated."""

    def gathered(self) -> AbstractContextManager[object]:
        """Inside, this process holds every weight whole, to use and not to change."""


class SingleProcess:
    """All micro-batches of a step one after another, in this process."""

    rank = 0
    ranks = 1

    def __init__(
        self,
        transformer: HiDreamImageTransformer2DModel,
        adapter: Adapter,
        identity: Identity,
        compute: Compute,
    ) -> None:
        """``adapter``: what is trained, on the transformer's device."""
        self._transformer = transformer
        self._adapter = adapter
        self._parameters = adapter.parameters()
        self._trained = list(self._parameters.values())
        self._identity = identity
        self._compute = compute
        self._optimizer = build_optimizer(self._trained, identity.optimizer)

    def losses(self, batch: Batch) -> torch.Tensor:
        objective = self._identity.objective
        return batch_losses(
            self._transformer, self._adapter, batch, objective, self._compute
        ).flow_B

    def update(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> StepScalars:
        """On cuda the caller reads the scalars later and must keep nothing of a bad step."""
        total = torch.zeros((), device=self._compute.device)
        for batch in batches:
            loss = self.losses(batch).mean() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        scalars = StepScalars(total, largest_gradient(self._trained))
        if self._compute.device.type == "cpu":  # here asking costs nothing
            scalars.check(step)
        clip_gradients(self._trained, self._identity.clip)
        fault_point("train.before_step")
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self.forget_gradients()
        return scalars

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        parameters = {name: each.detach() for name, each in self._parameters.items()}
        return parameters, state_tensors(self._optimizer, self._parameters)

    def load(self, checkpoint: Checkpoint) -> None:
        load_parameters(self._parameters, checkpoint.parameters)
        load_state_tensors(self._optimizer, self._parameters, checkpoint.optimizer_state)

    def latest_of(self, order: int) -> int:
        return order

    def forget_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def gathered(self) -> AbstractContextManager[object]:
        return nullcontext()


def load_parameters(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Copy values into the trained parameters; raises CheckpointError on any difference of kind."""
    check_same_names(parameters, tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = tensors[name]
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise CheckpointError(
                    f"{name} is {tuple(value.shape)} {value.dtype} in the checkpoint and "
                    f"{tuple(parameter.shape)} {parameter.dtype} here"
                )
            parameter.copy_(value)


def check_same_names(here: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Raises CheckpointError that names one parameter of each kind of difference."""
    missing, extra = sorted(here.keys() - saved.keys()), sorted(saved.keys() - here.keys())
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint lacks {len(missing)} parameters {missing[:1]} and has "
            f"{len(extra)} unknown ones {extra[:1]}"
        )
