"""What one training step costs, counted on a CPU: host reads, operations, FLOPs and saved bytes."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
TWINS = "trainer_core/kernels/"
"""On a card Triton kernels run in place of these functions."""

_READS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal"}
"""Operations whose result, or its shape, the host waits for."""
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""They look for the chosen elements where an index is a mask."""
_COPIES = {"tolist", "numpy", "cpu"}
"""Methods that copy a tensor to the host; on a CPU they call no operation."""


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    host_reads: dict[str, int]
    """File of this project, or ``elsewhere`` → reads of the host; without the plain twins."""
    operations: int
    """Dispatched operations, without views and empty tensors: about one kernel each."""
    flops: int
    """Of matrix products, those of attention included."""
    saved_bytes: int
    """Kept by the forward for the backward pass, without parameters and inputs."""


def count_step(step: Callable[[], object], held: Iterable[torch.Tensor]) -> StepCounts:
    """Take three steps, and count the second and the third.

    ``held``: parameters and inputs, which are there anyway.
    """
    step()  # makes the optimizer's state
    reads = _Reads()
    saved = _Saved(held)
    with saved.hooks(), _Copies(reads), reads:
        step()
    flops = FlopCounterMode(display=False)
    with flops, sdpa_kernel(SDPBackend.MATH):
        step()
    return StepCounts(
        host_reads=dict(reads.by_place),
        operations=reads.operations,
        flops=flops.get_total_flops(),
        saved_bytes=saved.total_bytes,
    )


class _Reads(TorchDispatchMode):
    """Counts operations, and where the host reads."""

    def __init__(self) -> None:
        super().__init__()
        self.by_place: Counter[str] = Counter()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and "empty" not in name:
            self.operations += 1
        masked = name in _INDEXED and any(_is_mask(index) for index in args[1])
        if name in _READS or masked:
            self.add()
        return func(*args, **(kwargs or {}))

    def add(self) -> None:
        place = _place()
        if not place.startswith(TWINS):
            self.by_place[place] += 1


class _Copies(TorchFunctionMode):
    """Counts the copies to the host that no operation shows."""

    def __init__(self, reads: _Reads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _COPIES:
            self._reads.add()
        return func(*args, **(kwargs or {}))


class _Saved:
    """Counts the storages that autograd keeps."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        self._held = {each.untyped_storage().data_ptr() for each in held}
        self._sizes: dict[int, int] = {}

    def hooks(self) -> ExitStack:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._held:
                self._sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        stack = ExitStack()
        stack.enter_context(saved_tensors_hooks(pack, lambda tensor: tensor))
        return stack

    @property
    def total_bytes(self) -> int:
        return sum(self._sizes.values())


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _place() -> str:
    """The file of this project that asked, innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "trainer_core"):
            return str(path.relative_to(ROOT))
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
