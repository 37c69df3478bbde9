"""Full-rank training under DeepSpeed ZeRO, which shards optimizer state, gradients and weights.

It runs in one process, or in several under torchrun. Each writes its own parts of the tensors to a
checkpoint, by the names of whole tensors, so that a run can resume with another number of
processes. DeepSpeed's own checkpoints are not used, because they contain pickles.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed
from torch import nn

from trainer_core.checkpoint.read import Checkpoint
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Objective, Plan
from trainer_core.engine import zero_checkpoint
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import Losses
from trainer_core.engine.pending import Finished, Pending
from trainer_core.engine.step_metrics import StepMeans, total_loss
from trainer_core.engine.zero_gradients import clip_values, gradient_shards, step_metrics
from trainer_core.engine.zero_shards import WeightShards
from trainer_core.export.parameters_in_memory import ParametersInMemory
from trainer_core.export.safetensors_file import Parameters
from trainer_core.faultpoints import fault_point
from trainer_core.hidream.blocks import NoteExperts
from trainer_core.optim.build import set_learning_rate
from trainer_core.optim.ema import Ema
from trainer_core.optim.state import set_count
from trainer_core.precision.compute import Compute
from trainer_core.process.control import StopRequestedError


class ZeroSharded:
    """The ``Backend`` of full-rank training."""

    is_sharded = True

    def __init__(
        self,
        engine: Any,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        compute: Compute,
        notes: tuple[str, ...],
    ) -> None:
        """
        Args:
            engine: DeepSpeed's, from ``deepspeed.initialize``.
            optimizer: the one that the engine steps, on its shards.
            plan: the run.
            compute: the device and the number types.
            notes: about the way it is sharded, for ``preparation``.
        """
        self._engine = engine
        self._optimizer = optimizer
        self._updates = 0
        optimizer.register_step_pre_hook(lambda stepped, *_: set_count(stepped, self._updates))
        self._objective = plan.identity.objective
        self._stage = plan.operation.zero_stage
        self._compute = compute
        transformer = engine.module.transformer
        self._parameters: dict[str, nn.Parameter] = dict(transformer.named_parameters())
        self._clip = plan.identity.clip
        self.shards = WeightShards(engine, optimizer, self._parameters, compute.device)
        """The fp32 weights that this rank updates."""
        self._ema: Ema | None = None
        if plan.identity.ema is not None:
            device = self.shards.leaves[0].device
            home = torch.device("cpu") if plan.operation.ema_device == "cpu" else device
            self._ema = Ema(self.shards, plan.identity.ema, home)
        self.preparation: tuple[str, ...] = ("DeepSpeed asks the host before each update", *notes)
        self.rank = torch.distributed.get_rank()
        self.ranks = torch.distributed.get_world_size()

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
        return Losses(*self._engine(batch, objective, note_experts))

    def launch(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> Pending:
        share = count // self.ranks
        means = StepMeans(self._compute.device)
        for number, batch in enumerate(batches, start=1):
            losses = self._losses(batch)
            self._engine.backward(total_loss(losses, self._objective))
            means.add(losses, count, batch.sigmas_B)
            fault_point("train.after_backward")
            if number < share:
                self._engine.step()  # only counts the micro-batch: DeepSpeed updates at the last
        gradients = gradient_shards(self._engine, self._parameters.values(), self.shards.leaves)
        metrics = step_metrics(step, means, gradients, are_parts=bool(self._stage))
        if self._clip is not None and self._clip.method == "value":
            clip_values(gradients, self._clip.limit)
        del gradients
        fault_point("train.before_step")
        set_learning_rate(self._optimizer, learning_rate)
        self._updates = step - 1
        self._engine.step()
        if self._ema is not None:
            self._update_means(self._ema, step)
        return Finished(metrics)

    def _update_means(self, ema: Ema, step: int) -> None:
        device = self.shards.leaves[0].device
        share = torch.tensor(ema.share(step), device=device)
        ema.update(share, torch.ones((), dtype=torch.bool, device=device))

    def take_warnings(self) -> list[str]:
        return []

    def tensors(self) -> TrainedTensors:
        return zero_checkpoint.trained_tensors(self.shards, self._optimizer, self._ema)

    def whole_parameters(self) -> Parameters:
        return _WholeParameters(self.shards)

    def load(self, checkpoint: Checkpoint) -> None:
        zero_checkpoint.load(self.shards, self._optimizer, self._ema, checkpoint)
        self.shards.publish()

    def max_across_ranks(self, number: int) -> int:
        largest = torch.tensor(number, device=self._compute.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return int(largest.item())

    def sum_across_ranks(self, numbers: torch.Tensor) -> torch.Tensor:
        total = numbers.to(self._compute.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.cpu()

    @contextmanager
    def with_means(self) -> Iterator[None]:
        if self._ema is None:
            yield
            return
        stop: StopRequestedError | None = None
        with self._ema.applied():
            self.shards.publish()
            try:
                yield
            except StopRequestedError as request:
                stop = request
        # Not after an error: it may be of this rank only, and the others would not answer.
        self.shards.publish()
        if stop is not None:
            raise stop

    def free_memory(self) -> None:
        """DeepSpeed's buffers stay for the run."""

    def gathered(self) -> AbstractContextManager[object]:
        if self._stage != 3:
            return nullcontext()
        import deepspeed  # noqa: PLC0415 - an extra of its own

        gathered: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(
            list(self._parameters.values())
        )
        return gathered

    def close(self) -> None:
        # Threads of Gloo that still run when the process ends abort it now and then.
        torch.distributed.destroy_process_group()


class _WholeParameters:
    """All parameters as ``Parameters``. Every rank reads the same ones in the same order."""

    def __init__(self, shards: WeightShards) -> None:
        self._shards = shards

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(shape) for name, shape in self._shards.shapes.items()}

    def read(self, name: str, scale: float) -> memoryview:
        return ParametersInMemory({name: self._shards.whole(name)}).read(name, scale)

    def read_bf16(self, name: str) -> memoryview:
        return ParametersInMemory({name: self._shards.whole(name)}).read_bf16(name)
