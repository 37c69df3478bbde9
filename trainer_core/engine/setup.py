"""Loads everything that a job needs into memory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL

from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.matmul import matmul_for
from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.matmul import MatmulPick, picks_fp8
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.data.entries import EntryFolder
from trainer_core.data.entry_files import wanted_folder
from trainer_core.engine.batch import BatchMaker
from trainer_core.engine.data_parallel import DataParallel
from trainer_core.engine.ranks import Ranks, ranks_started
from trainer_core.engine.start_times import StartTimes
from trainer_core.engine.step import Backend, SingleProcess
from trainer_core.errors import BaseModelError, DeviceError, GpuMemoryTakenError, OutOfMemoryError
from trainer_core.export.start_values import start_from
from trainer_core.hidream.base import Source, load_base
from trainer_core.hidream.loading import load_scheduler, load_vae
from trainer_core.hidream.network import Network, prepare
from trainer_core.hidream.timestep_sampling import AutoShift
from trainer_core.memory.card_fit import CardRun, require_fit
from trainer_core.memory.card_plan import CardPlan, host_linears
from trainer_core.memory.fused_model import is_fused_on
from trainer_core.precision.compute import Compute, capability_of, choose_compute
from trainer_core.process.card_memory import bytes_taken, taken_in_words
from trainer_core.process.control import Control
from trainer_core.process.host_memory import host_bytes
from trainer_core.process.job import BadJobError, Job
from trainer_core.process.rank_count import require_even
from trainer_core.weights.kept import KeptWeights

_KEPT_PARTS: Final = 16
"""Small cache entries may take one of so many parts of the machine's memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRun:
    """The models, the backend and the batches of a run."""

    network: Network
    vae: AutoencoderKL
    """On the CPU: only the sample of the result is decoded, on the device."""
    backend: Backend
    batches: BatchMaker
    trainable_parameters: int
    matmul: MatmulPick
    """How the frozen base is multiplied."""
    weights: Source
    """Which weights of the base model were read."""
    entries: EntryFolder
    start_times: StartTimes
    """Of this process; its parts end with the first step."""


def load_run(job: Job, control: Control) -> LoadedRun:
    """Load the base model, prepare the network, and open what trains it.

    Raises BaseModelError where the folder does not hold the plan's base model, DeviceError
    (GpuMissingError) where the machine lacks the plan's products (its device), or where this many
    ranks cannot train the plan, OutOfMemoryError where the run does not fit the card, and what
    loading raises.
    """
    times = StartTimes()
    _check_ranks(job.plan)
    folder = Path(job.base_model_dir)
    _check_base(folder, job.plan)
    compute = choose_compute(
        job.plan.operation.device,
        job.plan.identity.precision,
        trains_base=job.plan.identity.adapter is None and job.plan.operation.zero_stage is None,
    )
    _use_own_card(compute)
    # Before the memory is planned, of which NCCL takes some.
    ranks = Ranks(compute.device) if _is_data_parallel(job.plan) else None
    matmul = matmul_for(job, capability_of(compute.device))
    vae = load_vae(folder, torch.float32)
    times.end("vae_s")
    card, on_host = _card_plan(job, compute, matmul.kind)
    base = load_base(
        folder,
        job.plan,
        compute,
        matmul.kind,
        _kept_weights(job),
        on_host=on_host,
    )
    times.end("weights_s")
    network = prepare(
        base.transformer,
        job.plan,
        compute,
        matmul=matmul.kind,
        preparation=base.preparation,
        card=card,
    )
    if job.plan.identity.start_adapter is not None and job.resume_from is None:
        _start_from_adapter(job, network)
    times.end("network_s")
    # Counted before DeepSpeed, which may shard the parameters.
    size = sum(each.numel() for each in network.trained.values())
    backend = _backend(job, network, ranks)
    entries = _entries(job, control)
    batches = BatchMaker(
        job.index,
        entries,
        job.plan.identity,
        vae,
        compute,
        auto_shift=AutoShift.of_scheduler(load_scheduler(folder).config),
    )
    times.end("optimizer_s")
    return LoadedRun(
        network=network,
        vae=vae,
        backend=backend,
        batches=batches,
        trainable_parameters=size,
        matmul=matmul,
        weights=base.source,
        entries=entries,
        start_times=times,
    )


def _start_from_adapter(job: Job, network: Network) -> None:
    """Set the adapter to the one that the plan starts from; raises AdapterFileError."""
    if job.start_from is None:
        raise BadJobError("the plan starts from an adapter, and the job names no file of it")
    linears = hidream_linears(network.transformer.config)
    start_from(Path(job.start_from), job.plan, linears, network.trained)


def _card_plan(
    job: Job, compute: Compute, matmul: MatmulKind
) -> tuple[CardPlan | None, frozenset[str]]:
    """How the run fits its card, and the linears whose weights the host holds.

    (None, none) without fused blocks, or a card that computes them. Raises OutOfMemoryError where
    the run does not fit, and GpuMemoryTakenError where it would without other processes.
    """
    capability = capability_of(compute.device)
    if not is_fused_on(job.plan, matmul, capability):
        return None, frozenset()
    free_bytes, _ = torch.cuda.mem_get_info(compute.device)
    run = CardRun.of(
        job.plan,
        read_base_model(Path(job.base_model_dir)).transformer_config,
        matmul=matmul,
        image_px=_largest_px(job),
        free_bytes=free_bytes,
        picks_fp8=picks_fp8(capability),
    )
    card = _require_fit(run)
    return card, host_linears(run.model, card)


def _use_own_card(compute: Compute) -> None:
    """Load to this rank's card where it sees several: ``process.own_card`` could not tell them."""
    if compute.device.type == "cuda" and torch.cuda.device_count() > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def _largest_px(job: Job) -> int:
    """Area of the largest image that is trained on."""
    return max(each.width_px * each.height_px for each in job.index.samples)


def _require_fit(run: CardRun) -> CardPlan:
    try:
        return require_fit(run)
    except OutOfMemoryError:
        taken_bytes = bytes_taken()
        alone = replace(run, free_bytes=run.free_bytes + taken_bytes)
        if taken_bytes and alone.fits:
            raise GpuMemoryTakenError(taken_in_words(taken_bytes)) from None
        raise


def _check_base(folder: Path, plan: Plan) -> None:
    base, planned = read_base_model(folder), plan.identity.base
    if base.digest != planned.digest:
        raise BaseModelError(
            f"the base model {base.name} has digest {base.digest[:12]}, the plan was made for "
            f"{planned.name} with {planned.digest[:12]}"
        )


def _check_ranks(plan: Plan) -> None:
    """Raises DeviceError where the ranks that were started cannot train the plan together."""
    started = ranks_started()
    require_even(plan.identity, started)
    if started > 1 and plan.identity.adapter is None and plan.operation.zero_stage is None:
        raise DeviceError("several processes train all weights only with DeepSpeed: set zero_stage")


def _is_data_parallel(plan: Plan) -> bool:
    return plan.identity.adapter is not None and ranks_started() > 1


def _backend(job: Job, network: Network, ranks: Ranks | None) -> Backend:
    if ranks is not None:
        return DataParallel(network, job.plan, ranks)
    if job.plan.operation.zero_stage is not None and network.adapter is None:
        from trainer_core.engine.zero_open import open_zero  # noqa: PLC0415 - an extra of its own

        return open_zero(network, job.plan, image_px=_largest_px(job))
    return SingleProcess(network, job.plan)


def _kept_weights(job: Job) -> KeptWeights | None:
    cache = job.node_cache
    if cache is None:
        return None
    return KeptWeights(folder=cache.weights_dir, limit_bytes=cache.limit_bytes)


def _entries(job: Job, control: Control) -> EntryFolder:
    def wait(digest: str) -> None:
        request_entry(job, digest)
        if ranks_started() == 1:  # one of them may not stop alone
            control.check_stop()

    return EntryFolder(
        Path(job.shards_dir),
        are_checked=job.entries_are_checked,
        wait_s=job.shard_wait_s,
        while_waiting=wait,
        kept_bytes=_kept_bytes(),
    )


def _kept_bytes() -> int:
    """Of the memory for small entries of this process; all processes of a machine share it."""
    return host_bytes() // _KEPT_PARTS // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def request_entry(job: Job, digest: str) -> None:
    """Tell the supervisor, which fetches entries in sampler order, to fetch this one first."""
    wanted = wanted_folder(Path(job.shards_dir))
    wanted.mkdir(exist_ok=True)
    (wanted / digest).touch()
