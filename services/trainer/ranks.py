"""How many processes train a run on this machine."""

import os
from collections.abc import Mapping

from trainer_core.config.plan import Plan
from trainer_core.process.rank_count import most_ranks, visible_gpus


def ranks_for(plan: Plan, *, needs_gpu: bool, env: Mapping[str, str]) -> int:
    """The ranks to start, one for each GPU, or without GPUs one for each core.

    All weights take as many ranks as they are planned for. An adapter takes at most so many: fewer
    ranks share the same micro-batches, so a run of several GPUs also trains on a machine with one.

    Args:
        plan: the run.
        needs_gpu: the run may not train on the CPU.
        env: says which GPUs CUDA shows (``CUDA_VISIBLE_DEVICES``).
    """
    if plan.identity.adapter is None:
        return plan.identity.world_size
    gpus = 0 if plan.operation.device == "cpu" else visible_gpus(env)
    on_cpu = 1 if needs_gpu else len(os.sched_getaffinity(0))
    return most_ranks(plan.identity, gpus or on_cpu)
