"""Asks a short-lived child process whether the GPUs of this machine compute.

The worker's own process never imports torch, and a driver that hangs must not hang it.
"""

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import structlog

from services.processes.child import ChildProcess
from services.processes.environment import environment_for_child
from trainer_core.process.card_memory import EXIT_MEMORY_TAKEN
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

_DEADLINE_S: Final = 120.0


class GpuState(StrEnum):
    WORKS = "works"
    """There is a GPU, and every one computes."""
    MEMORY_TAKEN = "memory_taken"
    """No GPU failed, but other processes hold much of the memory of one."""
    FAILED = "failed"
    """A GPU failed, there is none, or this machine could not look."""


def gpu_state(program: Sequence[str]) -> GpuState:
    """The state of this machine's GPUs. The reason is on the standard error.

    Args:
        program: such as ``python -m trainer_core``.
    """
    arguments = ["check-device", "--device", "cuda", "--supervisor", current_process_token()]
    try:
        child = ChildProcess([*program, *arguments], env=environment_for_child(os.environ))
    except OSError as error:  # then no training process can be started, either
        log.error("gpus_not_checked", reason=error.strerror)
        return GpuState.FAILED
    child.wait(_DEADLINE_S)
    child.kill()
    match child.exit_status:
        case 0:
            return GpuState.WORKS
        case status if status == EXIT_MEMORY_TAKEN:
            return GpuState.MEMORY_TAKEN
    return GpuState.FAILED
