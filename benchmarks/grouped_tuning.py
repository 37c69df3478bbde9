"""Times the experts' products in each tiling of a list, beside PyTorch's, to choose the tilings.

    python -m benchmarks.grouped_tuning [--bits 8|16]

Each result is compared with fp32 first: a tiling whose worst row is wrong is not timed. A table a
type: a line a tiling, a column a product, in microseconds. Below it, TFLOP/s of the best, and the
best tiling for each product, for ``trainer_core.kernels.grouped_product``. Needs one Hopper
card.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import torch
from torch.nn import functional
from triton.runtime.errors import OutOfResources

from benchmarks.kernel_cases.grouped_product import AT_512, AT_1024, ends_of
from benchmarks.kernels import time_us
from trainer_core.kernels.grouped_tiles import Tiling, multiply_tiles

T = Tiling
TILINGS_8: Final = [
    #  M    N    K  together stores warps stages programs
    T(128, 256, 128, 16, 1, 8, 3, 1),
    T(128, 256, 128, 16, 2, 8, 4, 1),
    T(128, 256, 128, 8, 1, 8, 3, 1),
    T(128, 256, 128, 64, 1, 8, 3, 1),
    T(128, 256, 128, 4, 2, 8, 4, 1),
    T(128, 256, 64, 16, 1, 8, 6, 1),
    T(256, 128, 128, 16, 1, 8, 3, 1),
    T(256, 128, 128, 8, 2, 8, 4, 1),
    T(128, 128, 128, 16, 2, 4, 3, 2),
    T(128, 128, 128, 16, 1, 8, 5, 1),
    T(64, 256, 128, 16, 1, 4, 4, 1),
    T(64, 256, 128, 16, 2, 4, 2, 2),
    T(64, 128, 128, 16, 1, 4, 3, 2),
]
TILINGS_16: Final = [
    T(128, 256, 64, 16, 1, 8, 3, 1),
    T(128, 256, 64, 16, 2, 8, 4, 1),
    T(128, 256, 64, 8, 1, 8, 3, 1),
    T(128, 256, 64, 64, 1, 8, 3, 1),
    T(256, 128, 64, 8, 1, 8, 3, 1),
    T(128, 128, 64, 16, 2, 4, 3, 2),
    T(128, 128, 64, 16, 1, 8, 5, 1),
    T(64, 256, 64, 16, 2, 4, 2, 2),
]
MAX_ROW_ERROR: Final = {8: 0.1, 16: 0.01}
"""Relative L2 error of the worst row. The card sums 8-bit products in fewer bits than fp32 has."""


class Product(NamedTuple):
    """One product of a step. A gradient has no column scales."""

    sizes: tuple[int, ...]
    K: int
    N: int
    is_gradient: bool

    def __str__(self) -> str:
        return f"{sum(self.sizes)}:{self.K}>{self.N}"

    @property
    def flops(self) -> int:
        """Of the rows that exist."""
        return 2 * sum(self.sizes) * self.K * self.N


PRODUCTS: Final = [
    Product(sizes, K, N, is_gradient)
    for sizes in (AT_1024, AT_512)
    for K, N, is_gradient in (
        (2560, 13824, False),
        (6912, 2560, False),
        (13824, 2560, True),
        (2560, 6912, True),
    )
]


class Inputs(NamedTuple):
    """What a product reads, and the tensor it writes."""

    rows: torch.Tensor
    weight: torch.Tensor
    ends: torch.Tensor
    scale_M: torch.Tensor | None
    scale_EN: torch.Tensor | None
    out: torch.Tensor


def inputs_of(product: Product, bits: int) -> Inputs:
    """Random ones."""
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    M, E, N, K = sum(product.sizes), len(product.sizes), product.N, product.K
    dtype = torch.float8_e4m3fn if bits == 8 else torch.bfloat16

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    return Inputs(
        normal(M, K).to(dtype),
        normal(E, N, K).to(dtype),
        ends_of(product.sizes, device),
        normal(M).exp() if bits == 8 else None,
        normal(E, N).exp() if bits == 8 and not product.is_gradient else None,
        torch.empty(M, N, dtype=torch.bfloat16, device=device),
    )


def right_result(product: Product, inputs: Inputs) -> torch.Tensor:
    """[M, N] in fp32."""
    parts = []
    for e, part in enumerate(inputs.rows.split(list(product.sizes))):
        out = part.float() @ inputs.weight[e].float().T
        parts.append(out if inputs.scale_EN is None else out * inputs.scale_EN[e])
    out = torch.cat(parts)
    return out if inputs.scale_M is None else out * inputs.scale_M[:, None]


def worst_row(found: torch.Tensor, right: torch.Tensor) -> float:
    """The largest relative L2 error of a row; NaN where a result is not finite."""
    return float(((found.float() - right).norm(dim=1) / right.norm(dim=1)).max())


def torch_product(inputs: Inputs) -> Callable[[], torch.Tensor]:
    """The same in PyTorch."""
    rows, weight, ends, scale_M, scale_EN, _ = inputs
    columns = weight.transpose(1, 2)
    if scale_M is None:
        return lambda: functional.grouped_mm(rows, columns, offs=ends)
    scale = torch.ones(weight.shape[:2], device=rows.device) if scale_EN is None else scale_EN
    return lambda: torch._scaled_grouped_mm(
        rows, columns, scale_M, scale, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def our_product(inputs: Inputs, tiling: Tiling) -> Callable[[], torch.Tensor]:
    """Writes into ``inputs.out``."""

    def run() -> torch.Tensor:
        multiply_tiles(
            inputs.out,
            inputs.rows,
            inputs.weight,
            inputs.ends,
            tiling,
            scale_M=inputs.scale_M,
            scale_EN=inputs.scale_EN,
        )
        return inputs.out

    return run


def checked_us(run: Callable[[], torch.Tensor], right: torch.Tensor, max_error: float) -> float:
    """Microseconds; infinite where the result is wrong or the tiling does not fit the card."""
    try:
        error = worst_row(run(), right)
    except (OutOfResources, RuntimeError) as reason:
        print(f"  fails: {reason}", flush=True)
        return float("inf")
    if not error < max_error:
        print(f"  wrong: worst row {error:.4f}", flush=True)
        return float("inf")
    return time_us(run)


def measured(bits: int, tilings: list[Tiling]) -> Iterator[tuple[Product, float, list[float]]]:
    """Each product: the time of PyTorch, and those of the tilings."""
    for product in PRODUCTS:
        if bits == 16 and product.is_gradient:  # PyTorch's product computes it
            continue
        inputs = inputs_of(product, bits)
        right = right_result(product, inputs)
        torch_run = torch_product(inputs)
        print(f"{bits} bits {product} PyTorch: worst row {worst_row(torch_run(), right):.4f}")
        torch_us = checked_us(torch_run, right, float("inf"))
        ours_us = []
        for tiling in tilings:
            inputs.out.fill_(torch.nan)
            ours_us.append(checked_us(our_product(inputs, tiling), right, MAX_ROW_ERROR[bits]))
        yield product, torch_us, ours_us


def print_table(bits: int, tilings: list[Tiling]) -> None:
    """The table of one type, and what it says."""
    results = list(measured(bits, tilings))
    name_width = 34
    lines = [("PyTorch", [torch_us for _, torch_us, _ in results])]
    lines += [
        (str(tuple(tiling)), [ours_us[i] for _, _, ours_us in results])
        for i, tiling in enumerate(tilings)
    ]
    print(
        f"\n{bits} bits, us".ljust(name_width), *(f"{product!s:>15}" for product, _, _ in results)
    )
    for name, times_us in lines:
        print(name.ljust(name_width), *(f"{us:15.1f}" for us in times_us))
    best = [product.flops / min(ours_us) * 1e-6 for product, _, ours_us in results]
    peer = [product.flops / torch_us * 1e-6 for product, torch_us, _ in results]
    print("PyTorch, TFLOP/s".ljust(name_width), *(f"{each:15.0f}" for each in peer))
    print("best, TFLOP/s".ljust(name_width), *(f"{each:15.0f}" for each in best), "\n")

    by_entry = defaultdict(list)
    for product, _, ours_us in results:
        by_entry[sum(product.sizes), product.N].append(ours_us)
    for (M, N), times in by_entry.items():
        totals = [sum(each) for each in zip(*times, strict=True)]
        i = min(range(len(totals)), key=totals.__getitem__)
        print(f"{bits} bits, {M} rows, {N} columns: {tilings[i]} {totals[i]:.1f} us")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, choices=(8, 16), help="of one type only")
    only = parser.parse_args().bits
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for bits, tilings in ((8, TILINGS_8), (16, TILINGS_16)):
        if only in {None, bits}:
            print_table(bits, tilings)


if __name__ == "__main__":
    main()
