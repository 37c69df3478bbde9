"""The kernels of one step, by kind and by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from benchmarks.step.measure import Subject
from trainer_core.engine.batch import Batch

KINDS: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    ("attention", ("flash", "sdpa", "fmha", "attention", "mha_")),
    (
        "grouped product",
        ("grouped", "group_gemm", "groupproblem", "accelerated_tiles", "loaded_tiles"),
    ),
    ("product", ("gemm", "cutlass", "nvjet", "matmul", "addmm", "bmm", "::mm", "splitk", "dot_")),
    ("transpose", ("transpose",)),
    ("copy", ("memcpy", "memset", "copy_", "catarray", "fill")),
    (
        "sort and gather",
        ("index", "gather", "scatter", "sort", "topk", "cumsum", "scan", "nonzero"),
    ),
    ("reduction", ("reduce", "norm", "softmax", "amax", "sum")),
    ("elementwise", ("elementwise", "vectorized", "multi_tensor")),
    ("Triton", ("_kernel", "triton")),
)
"""Kind → parts of kernel names, in lower case. The first kind that fits counts."""
_TOP: Final = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """One step on the device; on a CPU, torch's operations."""

    count: int
    total_ms: float
    """Sum over all kernels. The step takes longer where the device waits."""
    by_kind_ms: Mapping[str, float]
    top: Sequence[tuple[str, int, float]]
    """Name, calls and milliseconds of the kernels that take longest."""


def kernels_of_one_step(subject: Subject, batch: Batch) -> Kernels:
    """Trace one step of a subject that is warm."""
    on_card = batch.noisy_BCHW.is_cuda
    activity = ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU
    device = DeviceType.CUDA if on_card else DeviceType.CPU
    subject.wait()
    with profile(activities=[activity]) as trace:
        subject.step(batch)
        subject.wait()
        if on_card:
            torch.cuda.synchronize()
    calls: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in trace.events():
        if event.device_type == device:
            spent = event.time_range.elapsed_us() if on_card else event.self_cpu_time_total
            calls[event.name] += 1
            microseconds[event.name] += spent
    by_kind: Counter[str] = Counter()
    for name, spent in microseconds.items():
        by_kind[kind_of(name)] += spent
    return Kernels(
        count=calls.total(),
        total_ms=microseconds.total() / 1000,
        by_kind_ms={kind: round(spent / 1000, 3) for kind, spent in by_kind.most_common()},
        top=[
            (name[:120], calls[name], round(spent / 1000, 3))
            for name, spent in microseconds.most_common(_TOP)
        ],
    )


def kind_of(name: str) -> str:
    """The kind of a kernel; ``other`` where its name says nothing."""
    lower = name.lower()
    for kind, parts in KINDS:
        if any(part in lower for part in parts):
            return kind
    return "other"
