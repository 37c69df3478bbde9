"""`python -m trainer_core check-device`: whether every GPU of this machine computes."""

import sys
from typing import Final

import torch

from trainer_core.process.card_memory import (
    EXIT_MEMORY_TAKEN,
    bytes_taken,
    taken_in_words,
)

_EDGE: Final = 1024


def check(device: str) -> int:
    """0 where each GPU multiplies two matrices of ones correctly; 1 with the reason on stderr.

    EXIT_MEMORY_TAKEN where other processes hold too much of a GPU's memory to try.

    Args:
        device: ``cuda``: there has to be a GPU; ``auto``: a machine without one passes.
    """
    is_taken = False
    try:
        count = torch.cuda.device_count()
        for index in range(count):
            if taken_bytes := bytes_taken(index):
                _say(f"GPU {index}: {taken_in_words(taken_bytes)}")
                is_taken = True
            else:
                _check(torch.device("cuda", index))
    except Exception as error:  # noqa: BLE001 - any error: the device does not work
        _say(f"a GPU failed: {error}")
        return 1
    if count == 0 and device == "cuda":
        _say("this machine has no working GPU")
        return 1
    return EXIT_MEMORY_TAKEN if is_taken else 0


def _check(device: torch.device) -> None:
    ones = torch.ones(_EDGE, _EDGE, device=device)
    if (ones @ ones).sum().item() != _EDGE**3:
        raise ArithmeticError(f"{device} multiplies wrongly")


def _say(reason: str) -> None:
    print(reason, file=sys.stderr)  # noqa: T201 - the operator's log
