"""`python -m trainer_core check-device`: whether every GPU of this machine computes."""

import sys
from typing import Final

import torch

_EDGE: Final = 1024


def check(device: str) -> int:
    """0 where each GPU multiplies two matrices of ones correctly; 1 with the reason on stderr.

    Args:
        device: ``cuda``: there has to be a GPU; ``auto``: a machine without one passes.
    """
    try:
        count = torch.cuda.device_count()
        for index in range(count):
            _check(torch.device("cuda", index))
    except Exception as error:  # noqa: BLE001 - any error: the device does not work
        print(f"a GPU failed: {error}", file=sys.stderr)  # noqa: T201 - the operator's log
        return 1
    if count == 0 and device == "cuda":
        print("this machine has no working GPU", file=sys.stderr)  # noqa: T201 - the same
        return 1
    return 0


def _check(device: torch.device) -> None:
    ones = torch.ones(_EDGE, _EDGE, device=device)
    if (ones @ ones).sum().item() != _EDGE**3:
        raise ArithmeticError(f"{device} multiplies wrongly")
