"""Asks a short-lived child process whether the GPUs of this machine compute.

The worker's own process never imports torch, and a driver that hangs must not hang it.
"""

import os
from collections.abc import Sequence
from typing import Final

from services.processes.child import ChildProcess
from services.processes.environment import environment_for_child
from trainer_core.process.supervision import current_process_token

_DEADLINE_S: Final = 120.0


def gpu_answers(program: Sequence[str]) -> bool:
    """Whether there is a GPU, and every one computes. The reason is on the standard error.

    Args:
        program: such as ``python -m trainer_core``.
    """
    arguments = ["check-device", "--device", "cuda", "--supervisor", current_process_token()]
    child = ChildProcess([*program, *arguments], env=environment_for_child(os.environ))
    child.wait(_DEADLINE_S)
    child.kill()
    return child.exit_status == 0
