"""Full-rank training under DeepSpeed ZeRO, which shards optimizer state, gradients and weights.

It runs in one process, or in several under torchrun. Each writes its own parts of the tensors to a
checkpoint, by the names of whole tensors, so that a run can resume with another number of
processes. DeepSpeed's own checkpoints are not used, because they contain pickles.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import torch
import torch.distributed
from torch import nn
from torch._C._distributed_c10d import HashStore

from trainer_core.checkpoint.read import Checkpoint
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import SHARDED_OPTIMIZERS, Identity, Objective, Plan
from trainer_core.engine import zero_checkpoint
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import Losses, batch_losses
from trainer_core.engine.pending import Finished, Pending
from trainer_core.engine.step_metrics import StepMeans, total_loss
from trainer_core.engine.zero_gradients import clip_values, gradient_shards, step_metrics
from trainer_core.engine.zero_shards import WeightShards
from trainer_core.errors import DeviceError
from trainer_core.export.parameters_in_memory import ParametersInMemory
from trainer_core.export.safetensors_file import Parameters
from trainer_core.faultpoints import fault_point
from trainer_core.hidream.blocks import NoteExperts
from trainer_core.hidream.network import Network
from trainer_core.optim.build import build_optimizer, set_learning_rate
from trainer_core.optim.ema import Ema
from trainer_core.precision.compute import Compute
from trainer_core.process.control import StopRequestedError

_NEVER: Final = 1 << 40
_BUCKET_ELEMENTS: Final = 500_000_000
"""DeepSpeed's own default."""
_STEP_FIELD: Final = "step"
"""AdamW's count of updates. DeepSpeed keeps one a shard, a checkpoint one a parameter."""

_ON_HOST: Final = {"foreach": False, "triton": False, "fused": True}
"""Settings of optimizers. Measured: AdamW over 20 million fp32 weights takes 0.03 s fused, and 0.32
s without, on a CPU of two cores."""


class _Objective(nn.Module):
    """Computes a batch's losses in a module's forward, where DeepSpeed's hooks apply."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        self.transformer = network.transformer
        self._network = network
        self._objective = objective

    def forward(
        self,
        batch: Batch,
        objective: Objective | None,
        note_experts: NoteExperts | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``Losses`` as a plain tuple, which DeepSpeed's hooks understand.

        ``objective``: None: the plan's.
        """
        wanted = objective or self._objective
        losses = batch_losses(self._network, batch, wanted, note_experts)
        return losses.flow_B, losses.balance


class ZeroSharded:
    """The ``Backend`` of full-rank training."""

    is_sharded = True

    def __init__(
        self, engine: Any, optimizer: torch.optim.Optimizer, plan: Plan, compute: Compute
    ) -> None:
        """
        Args:
            engine: DeepSpeed's, from ``deepspeed.initialize``.
            optimizer: the one that the engine steps, on its shards.
            plan: the run.
            compute: the device and the number types.
        """
        self._engine = engine
        self._optimizer = optimizer
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
        self.preparation: tuple[str, ...] = ("DeepSpeed asks the host before each update",)
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


def open_zero(network: Network, plan: Plan) -> ZeroSharded:
    """Hand the network to DeepSpeed.

    Raises DeviceError where DeepSpeed is not installed or does not support the plan.
    """
    _refuse_unsupported(plan.identity)
    deepspeed = _deepspeed(network.compute)
    _join_ranks(deepspeed, network.compute)
    optimizer = build_optimizer(network.transformer.parameters(), plan.identity.optimizer)
    # DeepSpeed may take an empty step to create its state. At rate 0 it changes no weight.
    set_learning_rate(optimizer, 0.0)
    engine, *_ = deepspeed.initialize(
        model=_Objective(network, plan.identity.objective),
        optimizer=optimizer,
        config=_engine_config(network, plan, torch.distributed.get_world_size()),
    )
    if plan.operation.zero_offload == "cpu":
        _update_on_host(optimizer, network.compute)
    for fields in optimizer.state.values():  # the empty step must not be counted
        if isinstance(fields.get(_STEP_FIELD), torch.Tensor):
            fields[_STEP_FIELD].zero_()
    return ZeroSharded(engine, optimizer, plan, network.compute)


def _update_on_host(optimizer: torch.optim.Optimizer, compute: Compute) -> None:
    """Choose the ways to compute that are fast on a CPU, where DeepSpeed has put the shards."""
    for group in optimizer.param_groups:
        group.update({key: value for key, value in _ON_HOST.items() if key in group})
    if compute.device.type == "cuda":  # torchrun gives each rank one thread
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))


def _refuse_unsupported(identity: Identity) -> None:
    if identity.optimizer.name not in SHARDED_OPTIMIZERS:
        raise DeviceError(
            f"{identity.optimizer.name} cannot be sharded: leave out zero_stage, or take one of "
            f"{', '.join(SHARDED_OPTIMIZERS)}"
        )


def _engine_config(network: Network, plan: Plan, ranks: int) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    identity = plan.identity
    per_step = identity.micro_batches_per_step
    clip = identity.clip
    norm_limit = clip.limit if clip is not None and clip.method == "norm" else 0.0
    elements = sum(parameter.numel() for parameter in network.transformer.parameters())
    return {
        "train_micro_batch_size_per_gpu": identity.micro_batch_size,
        "gradient_accumulation_steps": max(1, per_step // ranks),
        "zero_optimization": {
            "stage": plan.operation.zero_stage or 0,
            # DeepSpeed's default takes 2 GB, also for a model of 20 MB.
            "reduce_bucket_size": min(_BUCKET_ELEMENTS, elements),
            "offload_optimizer": {
                "device": plan.operation.zero_offload,
                "pin_memory": network.compute.device.type == "cuda",
            },
        },
        "zero_allow_untested_optimizer": True,
        # Its own optimizer of the CPU is compiled at run time; torch's is not.
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": norm_limit,
        "bf16": {"enabled": network.compute.weights is torch.bfloat16},
        "steps_per_print": _NEVER,
    }


def _deepspeed(compute: Compute) -> Any:
    """The DeepSpeed library, set up so that it never calls a compiler."""
    if compute.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        import deepspeed  # noqa: PLC0415 - an extra of its own, and slow
        import deepspeed.ops  # noqa: PLC0415
    except ImportError as error:
        raise DeviceError("full-rank training needs the extra `full-rank` (DeepSpeed)") from error
    # DeepSpeed would build its shared-memory collectives from C++ at run time, even for one rank.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _join_ranks(deepspeed: Any, compute: Compute) -> None:
    """Join the ranks of torchrun; without torchrun be the only rank, and open no port."""
    backend = "nccl" if compute.device.type == "cuda" else "gloo"
    alone = os.environ.get("MASTER_PORT", "0") == "0"  # torchrun names a port
    if alone:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
        )
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


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
