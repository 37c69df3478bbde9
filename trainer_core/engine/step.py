"""One optimizer step in one process, for an adapter or for every weight."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import nn

from trainer_core.checkpoint.read import Checkpoint
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import Losses, batch_losses
from trainer_core.engine.step_metrics import StepMeans, StepMetrics, total_loss
from trainer_core.errors import CheckpointError
from trainer_core.faultpoints import fault_point
from trainer_core.hidream.network import Network
from trainer_core.optim.build import build_optimizer, set_learning_rate
from trainer_core.optim.clip import clip_gradients, largest_gradient
from trainer_core.optim.ema import Ema
from trainer_core.optim.state import load_state_tensors, state_tensors


class Backend(Protocol):
    """Holds the trained parameters and the optimizer, and takes steps with them.

    ``SingleProcess`` is one process. ``zero.ZeroSharded`` is one or more ranks, which share each
    step's micro-batches and shard the tensors. Every rank calls the same methods in the same order,
    because most of them exchange data between the ranks.
    """

    rank: int
    """Number of this process, from 0."""
    ranks: int
    """Number of processes that share a step's micro-batches."""

    def losses(self, batch: Batch) -> torch.Tensor:
        """Flow loss of each sample, [B], fp32, with its graph where gradients are enabled."""

    def update(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> StepMetrics:
        """Take one optimizer step, and wait until its metrics are on the host.

        Args:
            batches: this rank's micro-batches of the step.
            count: micro-batches of all ranks together; the loss is the mean over them.
            step: number of the optimizer step, from 1.
            learning_rate: of this step.

        Raises NonFiniteLossError where a loss or a gradient is not finite. Parameters, optimizer
        state and EMA are then as they were before.
        """

    def tensors(self) -> TrainedTensors:
        """Everything that a checkpoint holds, by logical name, whole on every rank."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore what ``tensors`` returned. Raises CheckpointError where it does not fit."""

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold their running means, if the plan has an EMA."""

    def max_across_ranks(self, number: int) -> int:
        """The largest of the numbers that the ranks pass; the same answer on every rank."""

    def gathered(self) -> AbstractContextManager[object]:
        """Inside, this process holds every parameter whole. They may be read, not changed."""


class SingleProcess:
    """The ``Backend`` that takes all micro-batches of a step one after another, in this process."""

    rank = 0
    ranks = 1

    def __init__(self, network: Network, plan: Plan) -> None:
        """``network``: on its device, with fp32 trained parameters."""
        self._network = network
        self._parameters = dict(network.trained)
        self._trained = list(self._parameters.values())
        self._identity = plan.identity
        self._optimizer = build_optimizer(self._trained, plan.identity.optimizer)
        self._ema: Ema | None = None
        if plan.identity.ema is not None:
            on_cpu = plan.operation.ema_device == "cpu"
            home = torch.device("cpu") if on_cpu else network.compute.device
            self._ema = Ema(self._parameters, plan.identity.ema, home)

    def losses(self, batch: Batch) -> torch.Tensor:
        return self._losses(batch).flow_B

    def _losses(self, batch: Batch) -> Losses:
        return batch_losses(self._network, batch, self._identity.objective)

    def update(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> StepMetrics:
        means = StepMeans(self._network.compute.device)
        try:
            for batch in batches:
                losses = self._losses(batch)
                loss = total_loss(losses, self._identity.objective) / count
                loss.backward()  # type: ignore[no-untyped-call]
                means.add(losses, count)
                fault_point("train.after_backward")
            metrics = means.read(step, largest_gradient(self._trained))
            clip_gradients(self._trained, self._identity.clip)
            fault_point("train.before_step")
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
        finally:  # also after a stop request while the step waits for a shard
            self._optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.update(step)
        return metrics

    def tensors(self) -> TrainedTensors:
        return TrainedTensors(
            parameters={name: each.detach() for name, each in self._parameters.items()},
            optimizer_state=state_tensors(self._optimizer, self._parameters),
            ema=self._ema.tensors() if self._ema else {},
        )

    def load(self, checkpoint: Checkpoint) -> None:
        load_parameters(self._parameters, checkpoint.parameters)
        load_state_tensors(self._optimizer, self._parameters, checkpoint.optimizer_state)
        if self._ema is not None:
            self._ema.load(checkpoint.ema)

    def averaged(self) -> AbstractContextManager[None]:
        return self._ema.applied() if self._ema else nullcontext()

    def max_across_ranks(self, number: int) -> int:
        return number

    def gathered(self) -> AbstractContextManager[object]:
        return nullcontext()


def load_parameters(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Copy values into the trained parameters.

    Raises CheckpointError where names, shapes or types differ.
    """
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
    """Raises CheckpointError; it names one missing and one unknown parameter."""
    missing, extra = sorted(here.keys() - saved.keys()), sorted(saved.keys() - here.keys())
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint lacks {len(missing)} parameters {missing[:1]} and has "
            f"{len(extra)} unknown ones {extra[:1]}"
        )
