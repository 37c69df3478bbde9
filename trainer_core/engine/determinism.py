"""Whether equal inputs give equal bits, so that a resumed run equals one never interrupted.

On a CPU they always do. On CUDA they do where the plan asks for it, because a step may take longer:
otherwise the fastest attention, cuDNN's, adds the parts of the query's gradient in no fixed order.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
import torch.distributed
from pydantic import JsonValue

from trainer_core.config.plan import Operation

_RANKS: Final = "ranks"


def set_threads(env: Mapping[str, str]) -> None:
    """Set the thread count from ``OMP_NUM_THREADS``: a sum on a CPU is rounded by it."""
    threads = env.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > 0:
        torch.set_num_threads(int(threads))


def set_determinism(env: Mapping[str, str], operation: Operation) -> None:
    """``set_threads``, and select kernels that are deterministic, or the fastest.

    For CUDA ``process.cublas.fix_workspace`` has to come first. Where kernels have to be
    deterministic, torch raises RuntimeError in an operation that has no such kernel.
    """
    set_threads(env)
    is_on_cuda = operation.device != "cpu" and torch.cuda.is_available()
    torch.use_deterministic_algorithms(operation.deterministic or not is_on_cuda)
    # New memory is written before it is read. To fill it first would be a pass over all of it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def environment_fingerprint(device: torch.device) -> dict[str, JsonValue]:
    """What the bits of a result depend on beside the plan; stored in each checkpoint's scalars."""
    found: dict[str, JsonValue] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        found["card"] = torch.cuda.get_device_name(device)
        found["deterministic"] = torch.are_deterministic_algorithms_enabled()
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        found[_RANKS] = torch.distributed.get_world_size()
    return found


def environment_changes(
    stored: Mapping[str, JsonValue], here: Mapping[str, JsonValue]
) -> Iterator[str]:
    """How a run's fingerprint differs from the one among a checkpoint's scalars, as sentences.

    Older checkpoints, and those of a CPU, store no card; those of one process store no ranks.
    """
    stored = {_RANKS: 1, **stored} if _RANKS in here else stored
    for name, value in here.items():
        if name not in stored:
            yield f"The run resumes with {name} {value}; the checkpoint names none."
        elif stored[name] != value:
            yield f"The run resumes with {name} {value}, not {stored[name]}."
    if "card" in stored and "card" not in here:
        yield f"The run resumes on a CPU, not with card {stored['card']}."
    if _RANKS in stored and _RANKS not in here:
        yield f"The run resumes with {_RANKS} 1, not {stored[_RANKS]}."


def resume_promise(device: torch.device) -> tuple[str, ...]:
    """What a resume on this device is worth, for the run's log; nothing where it is the same."""
    if device.type != "cuda":
        return ()
    if torch.are_deterministic_algorithms_enabled():
        return ("deterministic: a resume on such a card equals an unbroken run bit for bit",)
    return ("not deterministic: a resume is as good as an unbroken run, but not bit for bit",)
