"""From a job to everything that a run needs in memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, HiDreamImageTransformer2DModel
from pydantic import JsonValue

from trainer_core.adapters.attach import Adapter, attach_adapter
from trainer_core.adapters.full import full_rank_parameters
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Quantization
from trainer_core.data.index import ShardDescription
from trainer_core.data.shards import ShardFolder
from trainer_core.engine.batch import BatchMaker
from trainer_core.engine.recompute import recompute_blocks
from trainer_core.engine.step import Backend, SingleProcess
from trainer_core.errors import BaseModelError, DeviceError
from trainer_core.hidream.loading import load_scheduler, load_transformer, load_vae
from trainer_core.hidream.sigmas import AutoShift
from trainer_core.precision.compute import Compute, choose_compute
from trainer_core.precision.quanto import quantize_frozen
from trainer_core.process.control import Control
from trainer_core.process.job import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A run in memory."""

    transformer: HiDreamImageTransformer2DModel
    vae: AutoencoderKL
    adapter: Adapter | None
    """None where every weight is trained."""
    backend: Backend
    batches: BatchMaker
    compute: Compute
    trainable_modules: int
    trainable_parameters: int
    preparation: tuple[str, ...]
    """What was done to the base model, in order."""


def make_deterministic(env: Mapping[str, str]) -> None:
    """Fix the thread count and ask torch for deterministic kernels.

    The bits of a sum on a CPU depend on how many threads share it.
    """
    threads = env.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > 0:
        torch.set_num_threads(int(threads))
    # On cuda a few backward kernels have no deterministic form; they warn instead of failing.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def surroundings() -> dict[str, JsonValue]:
    """What bits depend on beside the plan; goes into each checkpoint's scalars."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def load_parts(job: Job, control: Control) -> Parts:
    """Load, quantise and adapt the base model, and build the optimizer, in that order.

    Raises BaseModelError where the folder does not hold the plan's base model, DeviceError,
    and what loading raises.
    """
    identity, operation = job.plan.identity, job.plan.operation
    folder = Path(job.base_model_dir)
    base = read_base_model(folder)
    if base.digest != identity.base.digest:
        raise BaseModelError(
            f"the base model {base.name} has digest {base.digest[:12]}, the plan was made for "
            f"{identity.base.name} with {identity.base.digest[:12]}"
        )
    in_one_process = operation.zero_stage is None
    compute = choose_compute(
        operation.device,
        identity.precision,
        trains_base=identity.adapter is None and in_one_process,
    )
    vae = load_vae(folder, torch.float32)
    transformer = load_transformer(folder, compute.weights)
    preparation = place_base(
        transformer, identity.precision.base, operation.quantize_via, compute.device
    )
    if operation.gradient_checkpointing:
        recompute_blocks(transformer, operation.gradient_checkpointing_interval)
    adapter, backend = _trained(job, transformer, compute)
    transformer.train()
    trained = [each for each in transformer.parameters() if each.requires_grad]
    return Parts(
        transformer=transformer,
        vae=vae.to(compute.device),
        adapter=adapter,
        backend=backend,
        batches=BatchMaker(
            job.index,
            _shards(job, control),
            identity,
            vae,
            compute,
            auto_shift=AutoShift.of_scheduler(load_scheduler(folder).config),
        ),
        compute=compute,
        trainable_modules=adapter.num_modules if adapter else _count_linears(transformer),
        trainable_parameters=sum(_size(each) for each in trained),
        preparation=preparation,
    )


def place_base(
    transformer: torch.nn.Module,
    scheme: Quantization,
    via: Literal["cpu", "accelerator"],
    device: torch.device,
) -> tuple[str, ...]:
    """Move the base to ``device``, quantised there or, to spare its memory, before it gets there.

    Quantisation always comes before the adapter: it replaces modules, and would drop one silently.

    Returns:
        What was done, in order, such as ``quantized 106 linears on cpu``, ``moved to cuda``.
    """
    done = []

    def quantize() -> None:
        paths = quantize_frozen(transformer, scheme)
        if paths:
            done.append(f"quantized {len(paths)} linears on {_device_of(transformer)}")

    if via == "cpu":
        quantize()
    transformer.to(device)
    done.append(f"moved to {device.type}")
    if via == "accelerator":
        quantize()
    return tuple(done)


def _trained(
    job: Job, transformer: HiDreamImageTransformer2DModel, compute: Compute
) -> tuple[Adapter | None, Backend]:
    """The adapter, if any, and what trains it; raises DeviceError for processes nobody binds."""
    identity = job.plan.identity
    if job.plan.operation.zero_stage is not None and identity.adapter is None:
        from trainer_core.engine.zero import open_zero  # noqa: PLC0415 - an extra of its own

        return None, open_zero(transformer, job.plan, compute)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DeviceError("several processes train one model only with DeepSpeed: set zero_stage")
    if identity.adapter is None:
        every = full_rank_parameters(transformer)
        return None, SingleProcess(transformer, None, every, job.plan, compute)
    adapter = attach_adapter(transformer, identity.adapter, identity.seed)
    return adapter, SingleProcess(transformer, adapter, adapter.parameters(), job.plan, compute)


def _shards(job: Job, control: Control) -> ShardFolder:
    folder = Path(job.shards_dir)

    def ask_for(shard: ShardDescription) -> None:
        # The supervisor brings shards in sampler order; this one it does not know to be urgent.
        (folder / f"{shard.digest}.wanted").touch()
        control.check_stop()

    return ShardFolder(folder, wait_s=job.shard_wait_s, while_waiting=ask_for)


def _device_of(module: torch.nn.Module) -> str:
    return next(module.parameters()).device.type


def _count_linears(module: torch.nn.Module) -> int:
    return sum(isinstance(part, torch.nn.Linear) for part in module.modules())


def _size(parameter: torch.nn.Parameter) -> int:
    """Also of a parameter that ZeRO has split: then only its own record knows."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
