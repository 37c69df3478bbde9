"""A card of which another process holds a part, as if it had less memory."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.step.measure import GIB, free_memory

_HOLD = """
import sys, torch
free_before, card_bytes = int(sys.argv[1]), int(sys.argv[2])
torch.zeros(1, device="cuda")
free_bytes = torch.cuda.mem_get_info()[0]
# What this process's context takes, the measured one has taken of its own card.
context_bytes = free_before - free_bytes
held = torch.empty(free_bytes - (card_bytes - context_bytes), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def card_of(card_gib: float | None) -> Iterator[None]:
    """Inside, this process can take as much memory as on a card of ``card_gib``.

    None: the whole card. Raises RuntimeError where the other process does not start.
    """
    if card_gib is None or not torch.cuda.is_available():
        yield
        return
    free_memory()
    free_bytes = torch.cuda.mem_get_info()[0]
    arguments = [str(free_bytes), str(int(card_gib * GIB))]
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            if holder.stdout.readline().strip() != "held":
                raise RuntimeError("the process that holds the rest of the card did not start")
            yield
        finally:
            holder.stdin.close()
