"""One optimizer step in one process, for an adapter or for every weight."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import nn

from trainer_core.checkpoint.read import Checkpoint
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Identity, Objective, Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.cuda_graphs import CudaRecorder
from trainer_core.engine.graphs import Graphs, Work
from trainer_core.engine.losses import Losses, batch_losses
from trainer_core.engine.pending import Launched, Pending
from trainer_core.engine.static_batches import StaticBatches, shapes_of
from trainer_core.engine.step_metrics import StepMeans, total_loss
from trainer_core.engine.update import Update
from trainer_core.engine.update_in_backward import UpdateInBackward
from trainer_core.errors import CheckpointError, DeviceError
from trainer_core.export.parameters_in_memory import ParametersInMemory
from trainer_core.export.safetensors_file import Parameters
from trainer_core.faultpoints import fault_point
from trainer_core.hidream.blocks import NoteExperts
from trainer_core.hidream.network import Network
from trainer_core.optim.ema import Ema
from trainer_core.optim.guarded import LeafOptimizer
from trainer_core.optim.open import open_optimizer
from trainer_core.optim.separate import SeparateParameters


class Backend(Protocol):
    """Holds the trained parameters and the optimizer, and takes steps with them.

    ``SingleProcess`` is one process. ``data_parallel.DataParallel`` and ``zero.ZeroSharded`` are
    each one of several ranks, which share a step's micro-batches; the second also shards tensors.
    Every rank calls the same methods in the same order, because most of them exchange data between
    the ranks.
    """

    rank: int
    """Number of this process, from 0."""
    ranks: int
    """Number of processes that share a step's micro-batches."""
    is_sharded: bool
    """Whether a forward needs the other ranks, because each holds a part of the tensors."""
    preparation: tuple[str, ...]
    """How steps are launched, and why not faster; told once, before the first step."""

    def losses(
        self,
        batch: Batch,
        objective: Objective | None = None,
        note_experts: NoteExperts | None = None,
    ) -> torch.Tensor:
        """Flow loss of each sample, [B], fp32, with its graph where gradients are enabled.

        ``objective``: None: the plan's. ``note_experts``: as for ``forward.predict``.
        """

    def launch(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> Pending:
        """Start one optimizer step. Its numbers are read from what is returned.

        The next step may be launched before that. Where a loss or a gradient is not finite, the
        step and all that were launched after it leave parameters, optimizer state and EMA as they
        were. An error that ``batches`` raises does so too.

        Args:
            batches: this rank's micro-batches of the step.
            count: micro-batches of all ranks together; the loss is the mean over them.
            step: number of the optimizer step, from 1.
            learning_rate: of this step.

        ``zero.ZeroSharded`` raises NonFiniteLossError already here: DeepSpeed updates at once.
        """

    def take_warnings(self) -> list[str]:
        """What became known since the last call, while steps were launched."""

    def tensors(self) -> TrainedTensors:
        """What this rank writes to a checkpoint: everything, or its own parts of it."""

    def whole_parameters(self) -> Parameters:
        """The trained parameters, each whole.

        Every rank reads the same ones in the same order, because others may hold parts of them.
        """

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore what ``tensors`` returned. Raises CheckpointError where it does not fit."""

    def with_means(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold their running means, if the plan has an EMA.

        No step is launched meanwhile. Afterwards every bit is as before.
        """

    def free_memory(self) -> None:
        """Free memory that only steps need; the next step takes it again."""

    def max_across_ranks(self, number: int) -> int:
        """The largest of the numbers that the ranks pass; the same answer on every rank."""

    def sum_across_ranks(self, numbers: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of what the ranks pass, fp64 on the CPU; the same on every rank."""

    def gathered(self) -> AbstractContextManager[object]:
        """Inside, this process holds every parameter whole. They may be read, not changed."""

    def close(self) -> None:
        """Leave the other ranks, once nothing more is exchanged with them."""


class SingleProcess:
    """The ``Backend`` that takes all micro-batches of a step one after another, in this process."""

    rank = 0
    ranks = 1
    is_sharded = False

    def __init__(self, network: Network, plan: Plan) -> None:
        """``network``: on its device."""
        identity, device = plan.identity, network.compute.device
        self._network = network
        self._objective = identity.objective
        self._parameters = network.flat or SeparateParameters(
            network.trained, keeps_gradients=not plan.operation.release_gradients
        )
        self._optimizer = open_optimizer(self._parameters, identity.optimizer, identity.seed)
        self._ema: Ema | None = None
        if identity.ema is not None:
            # An adapter's mean is small. Only that of all weights may have to leave the device.
            is_away = plan.operation.ema_device == "cpu" and network.adapter is None
            home = torch.device("cpu") if is_away else device
            self._ema = Ema(self._parameters, identity.ema, home)
        self._means = StepMeans(device)
        self._update = self._opened_update(plan)
        self._warnings: list[str] = []
        self._static = StaticBatches()
        self._graphs: Graphs | None = None
        self.preparation = self._asks_host(identity)
        if self._update.is_partial:
            self.preparation += ("weights are updated in the backward pass, their gradients freed",)
        if device.type == "cuda":
            reason = network.capture_refusal
            if reason is None:
                self._graphs = Graphs(CudaRecorder(device), self._warnings.append)
            told = f"no CUDA graph: {reason}" if reason else "a CUDA graph for each shape of batch"
            self.preparation += (told,)

    def _opened_update(self, plan: Plan) -> Update:
        clip, parameters, optimizer = plan.identity.clip, self._parameters, self._optimizer
        if not isinstance(parameters, SeparateParameters) or parameters.keeps_gradients:
            return Update(parameters, optimizer, self._ema, clip, self._means)
        if plan.identity.micro_batches_per_step > 1 or (clip and clip.method == "norm"):
            raise DeviceError(
                "weights can be updated in the backward pass only in steps of one micro-batch that "
                "are not clipped by norm: set optimizer_release_gradients to false"
            )
        if not isinstance(optimizer, LeafOptimizer):
            raise DeviceError(
                f"{plan.identity.optimizer.name} updates all weights at once: set "
                "optimizer_release_gradients to false"
            )
        return UpdateInBackward(parameters, optimizer, self._ema, clip, self._means)

    def _asks_host(self, identity: Identity) -> tuple[str, ...]:
        found = []
        if self._optimizer.asks_host:
            found.append(f"{identity.optimizer.name} asks the host before each update")
        if self._ema is not None and self._ema.asks_host:
            found.append("a mean (EMA) on the CPU asks the host after each update")
        return tuple(found)

    def losses(
        self,
        batch: Batch,
        objective: Objective | None = None,
        note_experts: NoteExperts | None = None,
    ) -> torch.Tensor:
        return self._losses(batch, objective, note_experts).flow_B

    def _losses(
        self,
        batch: Batch,
        objective: Objective | None = None,
        note_experts: NoteExperts | None = None,
    ) -> Losses:
        return batch_losses(self._network, batch, objective or self._objective, note_experts)

    def launch(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> Pending:
        self._update.prepare(step, learning_rate)
        try:
            for batch in batches:
                self._take(batch, count)
                fault_point("train.after_backward")
            fault_point("train.before_step")
            self._exchange()
        except BaseException:  # also a stop request while the step waits for an entry
            self._update.clear()
            raise
        if self._graphs is None or self._update.asks_host:
            self._update.apply()
        else:
            self._graphs.run(self._update.work())
        return Launched(
            step,
            self._update.report,
            self._update.health,
            has_balance=self._means.has_balance,
            is_partial=self._update.is_partial,
        )

    def _take(self, batch: Batch, count: int) -> None:
        """Add the gradients of one micro-batch, from a graph if it can be captured."""
        if self._graphs is None:
            self._add_gradients(batch, count)
            return
        static = self._static.filled(batch)
        add = partial(self._add_gradients, static, count)
        key = count, shapes_of(static)
        changed = self._update.accumulated()
        rehearse = self._update.rehearsed(add)
        self._graphs.run(Work(key=key, run=add, rehearse=rehearse, changed=changed))

    def _exchange(self) -> None:
        """Sum gradients and means over the ranks, of which there is one here."""

    def _add_gradients(self, batch: Batch, count: int) -> None:
        """Forward and backward of one of ``count`` micro-batches."""
        losses = self._losses(batch)
        self._update.backward(total_loss(losses, self._objective) / count)
        self._means.add(losses, count, batch.sigmas_B)

    def take_warnings(self) -> list[str]:
        found = self._warnings.copy()
        self._warnings.clear()
        return found

    def tensors(self) -> TrainedTensors:
        values = [leaf.detach() for leaf in self._parameters.leaves]
        return TrainedTensors(
            parameters=self._parameters.for_checkpoint(values),
            optimizer_state=self._optimizer.state() | self._update.state(),
            ema=self._ema.tensors() if self._ema else {},
        )

    def whole_parameters(self) -> Parameters:
        return ParametersInMemory(self.tensors().parameters)

    def load(self, checkpoint: Checkpoint) -> None:
        load_parameters(self._parameters.named, checkpoint.parameters)
        self._optimizer.load(self._update.load(checkpoint.optimizer_state))
        if self._ema is not None:
            self._ema.load(checkpoint.ema)

    def with_means(self) -> AbstractContextManager[None]:
        return self._ema.applied() if self._ema else nullcontext()

    def free_memory(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()

    def max_across_ranks(self, number: int) -> int:
        return number

    def sum_across_ranks(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers

    def gathered(self) -> AbstractContextManager[object]:
        return nullcontext()

    def close(self) -> None:
        """There are no others."""


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
