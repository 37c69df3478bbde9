"""What one training step costs, counted on a CPU: host reads, operations, FLOPs and saved bytes."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
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
    """``file:function`` of this project, or ``elsewhere`` → reads of the host; without the plain
    twins."""
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
    with saved.hooks(), _copies_counted(reads), reads:
        step()
    flops = flop_counter()
    with flops:
        step()
    return StepCounts(
        host_reads=dict(reads.by_place),
        operations=reads.operations,
        flops=flops.get_total_flops(),
        saved_bytes=saved.total_bytes,
    )


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, and attention of the CPU's kernel, which torch does not count."""
    operations = torch.ops.aten
    forward = operations._scaled_dot_product_flash_attention_for_cpu
    backward = operations._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(
        display=False,
        custom_mapping={
            forward: lambda query, key, *_, **__: 2 * _product(query, key),
            backward: lambda _, query, key, *__, **___: 5 * _product(query, key),
        },
    )


def _product(query: torch.Size, key: torch.Size) -> int:
    """FLOPs of all scores: queries [B, A, S, D] with keys [B, A, R, D]."""
    return 2 * query.numel() * key[-2]


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


@contextmanager
def _copies_counted(reads: _Reads) -> Iterator[None]:
    """Inside, ``reads`` counts the copies to the host that no operation shows.

    The methods are replaced, because a function mode is off in the backward pass.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in _COPIES:
            patch.setattr(torch.Tensor, name, _counted(getattr(torch.Tensor, name), reads))
        yield


def _counted(method: Callable[..., Any], reads: _Reads) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        reads.add()
        return method(*args, **named)

    return call


class _Saved:
    """Counts the storages that autograd keeps."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        self._held = {each.untyped_storage().data_ptr() for each in held}
        self._sizes: dict[int, int] = {}

    def hooks(self) -> saved_tensors_hooks:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            # What a recomputed block saves within the backward pass is gone after the block.
            is_forward = torch._C._current_graph_task_id() == -1
            if is_forward and storage.data_ptr() not in self._held:
                self._sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)

    @property
    def total_bytes(self) -> int:
        return sum(self._sizes.values())


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _place() -> str:
    """The function of this project that asked, the innermost."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "trainer_core"):
            return f"{path.relative_to(ROOT)}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
