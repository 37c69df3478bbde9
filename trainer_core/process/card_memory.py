"""What other processes hold of a GPU's memory, read through the torch that is imported already."""

import sys
from typing import Final

_LITTLE_BYTES: Final = 2 << 30
"""A display, a driver's own memory, and what this process holds outside torch's allocator (its
context, compiled kernels) are less than this."""
EXIT_MEMORY_TAKEN: Final = 3
"""Of ``check-device``: no GPU failed, but other processes hold much of the memory of one."""


def bytes_taken(device: int | None = None) -> int:
    """Bytes of a GPU that other processes hold; 0 where they are few, and without torch or GPU.

    Args:
        device: its number; None for the current one.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    reserved_bytes = torch.cuda.memory_reserved(device)
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        if reserved_bytes or "out of memory" not in str(error):
            raise
        # Others leave too little for the context that this process needs in order to ask.
        return int(torch.cuda.get_device_properties(device).total_memory)
    taken_bytes = int(total_bytes - free_bytes - reserved_bytes)
    return taken_bytes if taken_bytes > _LITTLE_BYTES else 0


def taken_in_words(taken_bytes: int) -> str:
    return f"Other processes hold {taken_bytes / 2**30:.1f} GiB of the GPU's memory."
