"""Time of each kernel, beside the time in which memory could move its bytes.

    python -m benchmarks.kernels [--only WORD]

One line a case: name, shape, microseconds, the microseconds of its bytes at 4.3 TB/s (nine tenths
of an H200's memory bandwidth), and the largest error: relative L2, but for rows in int8 in steps of
1. The backward is the time of both less that of the forward. Each is the median of 7 replays of a
CUDA graph that holds 20 calls. Small inputs stay in the card's cache between calls, so their cases
can be faster than memory. Cases of newer cards are left out.
"""

import argparse
import statistics
from collections.abc import Callable

import torch

from benchmarks.kernel_cases import CASES
from benchmarks.kernel_cases.case import Case, Draw, errors, is_for_this_card, launches

_BYTES_PER_US = 4.3e6
_CALLS, _REPLAYS = 20, 7


def time_us(run: Callable[[], object]) -> float:
    """Microseconds of one call of ``run`` on the device, without the host's share."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            run()
    graph.replay()
    spent_us = []
    for _ in range(_REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        spent_us.append(start.elapsed_time(end) * 1000 / _CALLS)
    return statistics.median(spent_us)


def lines(case: Case) -> list[str]:
    """The forward, and the backward where the case has one."""
    device = torch.device("cuda")
    error = max(found for _, found, _ in errors(case, Draw(device)))
    forward, both = launches(case, Draw(device))
    forward_us = time_us(forward)
    parts = [("forward", forward_us, case.forward_bytes)]
    if case.backward_bytes:
        parts.append(("backward", time_us(both) - forward_us, case.backward_bytes))
    return [
        f"{case.name} {part:8} {case.shape:24} {us:7.1f} us  floor {size / _BYTES_PER_US:6.1f} us"
        f"  error {error:.4f}"
        for part, us, size in parts
    ]


def main() -> None:
    """Print the lines of all cases for this card, or of those with a word in their name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the name of the cases")
    only = parser.parse_args().only
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for case in CASES:
        if only in case.name and is_for_this_card(case.capability):
            print("\n".join(lines(case)), flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
