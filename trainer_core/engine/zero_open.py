"""Opens DeepSpeed ZeRO over a prepared network: ranks, stage, optimizer and settings."""

import os
from typing import Any, Final

import torch
import torch.distributed
from torch import nn
from torch._C._distributed_c10d import HashStore

from trainer_core.config.plan import UNSHARDED_OPTIMIZERS, Identity, Objective, Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import batch_losses
from trainer_core.engine.zero import ZeroSharded
from trainer_core.errors import DeviceError
from trainer_core.hidream.blocks import NoteExperts
from trainer_core.hidream.network import Network
from trainer_core.memory.class_fit import CUDA_BYTES
from trainer_core.memory.zero_choice import ZeroChoice, choose_zero, is_open
from trainer_core.memory.zero_shares import BUCKET_ELEMENTS
from trainer_core.optim.build import build_optimizer, set_learning_rate
from trainer_core.precision.compute import Compute
from trainer_core.process.host_memory import host_bytes

_NEVER: Final = 1 << 40
_STEP_FIELD: Final = "step"
"""AdamW's count of updates. DeepSpeed keeps one a shard, a checkpoint one a parameter."""

_HOST_SHARE: Final = 0.8
"""Of the host's memory, that DeepSpeed may fill: pictures, entries and the system need some."""
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


def open_zero(network: Network, plan: Plan, *, image_px: int) -> ZeroSharded:
    """Hand the network to DeepSpeed.

    Args:
        network: prepared, whole on every rank.
        plan: of the run. Where it leaves the stage open, the cards of all ranks decide.
        image_px: area in pixels of an image of the largest bucket.

    Raises DeviceError where DeepSpeed is not installed or does not support the plan.
    """
    _refuse_unsupported(plan.identity)
    deepspeed = _deepspeed(network.compute)
    _join_ranks(deepspeed, network.compute)
    notes: tuple[str, ...] = ()
    if is_open(plan):
        choice = _choose_on_cards(network, plan, image_px)
        plan, notes = choice.applied(plan), (choice.reason,)
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
    return ZeroSharded(engine, optimizer, plan, network.compute, notes)


def _choose_on_cards(network: Network, plan: Plan, image_px: int) -> ZeroChoice:
    """The choice for the smallest card and host of all ranks, so that each makes the same."""
    device, ranks = network.compute.device, torch.distributed.get_world_size()
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own_host = round(_HOST_SHARE * host_bytes()) // local_ranks
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        own_card = free + torch.cuda.memory_reserved(device) - CUDA_BYTES
    else:
        own_card = own_host
    least = torch.tensor([own_card, own_host], device=device)
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
    card, host = least.tolist()
    identity = plan.identity.model_copy(update={"world_size": ranks})
    operation = plan.operation.model_copy(update={"device": device.type})
    here = plan.model_copy(update={"identity": identity, "operation": operation})
    return choose_zero(
        here, network.transformer.config, card_bytes=card, host_bytes=host, image_px=image_px
    )


def _update_on_host(optimizer: torch.optim.Optimizer, compute: Compute) -> None:
    """Choose the ways to compute that are fast on a CPU, where DeepSpeed has put the shards."""
    for group in optimizer.param_groups:
        group.update({key: value for key, value in _ON_HOST.items() if key in group})
    if compute.device.type == "cuda":  # torchrun gives each rank one thread
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))


def _refuse_unsupported(identity: Identity) -> None:
    name = identity.optimizer.name
    if (reason := UNSHARDED_OPTIMIZERS.get(name)) is not None:
        raise DeviceError(
            f"{name} cannot be sharded: {reason}. Leave out zero_stage, or take another optimizer"
        )
    if identity.clip is not None and identity.clip.method == "previous_norm":
        raise DeviceError("DeepSpeed has no previous_norm: set grad_clip_method to norm or value")


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
            "reduce_bucket_size": min(BUCKET_ELEMENTS, elements),
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
