"""How many processes train a run on this machine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trainer_core.config.plan import Plan

_DEVICES: Final = Path("/dev")


def ranks_for(
    plan: Plan, *, needs_gpu: bool, env: Mapping[str, str], devices: Path = _DEVICES
) -> int:
    """The ranks to start, one for each GPU, or without GPUs one for each core.

    All weights take as many ranks as they are planned for. An adapter takes at most so many: fewer
    ranks share the same micro-batches, so a run of several GPUs also trains on a machine with one.

    Args:
        plan: the run.
        needs_gpu: the run may not train on the CPU.
        env: says which GPUs CUDA shows (``CUDA_VISIBLE_DEVICES``).
        devices: the folder with the GPUs' device files.
    """
    identity = plan.identity
    if identity.adapter is None:
        return identity.world_size
    places = 0 if plan.operation.device == "cpu" else _gpus(env, devices)
    if places == 0:
        places = 1 if needs_gpu else len(os.sched_getaffinity(0))
    most = min(identity.world_size, places)
    per_step = identity.micro_batches_per_step
    return max(ranks for ranks in range(1, most + 1) if per_step % ranks == 0)


def _gpus(env: Mapping[str, str], devices: Path) -> int:
    """GPUs that CUDA shows. ``nvidia0`` is one of their device files, ``nvidiactl`` is none."""
    found = len([path for path in devices.glob("nvidia*") if path.name[6:].isdecimal()])
    shown = env.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return found
    return min(found, len([name for name in shown.split(",") if name.strip() not in ("", "-1")]))
