"""Times the blocks' products in each tiling of a list, beside PyTorch's, to choose the tilings.

    python -m benchmarks.product_tuning [--type e4m3|int8|bf16] [--only experts|dense]

Each result is compared with fp32 first: a tiling whose worst row is wrong is not timed. A table a
type: a line a tiling, a column a product, in microseconds. PyTorch's lines are of bf16 and of e4m3,
whatever the type. Below them, TFLOP/s of the best, and the best tiling for each output, for
``trainer_core.kernels.tilings``. Needs one Hopper card.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import torch
from torch.nn import functional
from triton.runtime.errors import OutOfResources

from benchmarks.kernel_cases.case import NAMES
from benchmarks.kernel_cases.grouped_product import AT_512, AT_1024, ends_of
from benchmarks.kernels import time_us
from trainer_core.kernels.grouped_tiles import multiply_tiles
from trainer_core.kernels.tile_order import Tiling

T = Tiling
E4M3: Final = torch.float8_e4m3fn
TILINGS: Final = {
    E4M3: [
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
    ],
    # Triton 3.6 waits for each block of an integer product before it starts the next one. Longer
    # blocks, and two programs a multiprocessor, leave the tensor cores less time without work.
    torch.int8: [
        T(128, 256, 128, 16, 1, 8, 3, 1),
        T(128, 256, 128, 16, 2, 8, 4, 1),
        T(128, 256, 128, 8, 1, 8, 3, 1),
        T(128, 256, 256, 16, 2, 8, 2, 1),
        T(256, 128, 128, 16, 1, 8, 3, 1),
        T(256, 128, 128, 16, 2, 8, 4, 1),
        T(256, 128, 256, 16, 2, 8, 2, 1),
        T(128, 128, 128, 16, 1, 8, 5, 1),
        T(128, 128, 256, 16, 1, 8, 3, 1),
        T(128, 128, 128, 16, 2, 4, 3, 2),
        T(128, 128, 128, 16, 1, 4, 2, 2),
        T(128, 128, 128, 16, 2, 8, 3, 2),
        T(64, 256, 128, 16, 2, 4, 2, 2),
        T(256, 64, 128, 16, 2, 8, 2, 2),
        T(128, 128, 64, 8, 1, 8, 4, 1, has_accelerator=False),
        T(128, 128, 128, 8, 1, 8, 3, 1, has_accelerator=False),
        T(128, 128, 64, 8, 1, 4, 3, 2, has_accelerator=False),
    ],
    torch.bfloat16: [
        T(128, 256, 64, 16, 1, 8, 3, 1),
        T(128, 256, 64, 16, 2, 8, 4, 1),
        T(128, 256, 64, 8, 1, 8, 3, 1),
        T(128, 256, 64, 64, 1, 8, 3, 1),
        T(256, 128, 64, 8, 1, 8, 3, 1),
        T(128, 128, 64, 16, 2, 4, 3, 2),
        T(128, 128, 64, 16, 1, 8, 5, 1),
        T(64, 256, 64, 16, 2, 4, 2, 2),
    ],
}
MAX_ROW_ERROR: Final = {E4M3: 0.1, torch.int8: 0.01, torch.bfloat16: 0.01}
"""Relative L2 error of the worst row. The card sums e4m3 products in fewer bits than fp32 has."""


class Product(NamedTuple):
    """One product of a step. A gradient has no column scales."""

    sizes: tuple[int, ...]
    """Rows of each expert; one size: a dense product."""
    K: int
    N: int
    is_gradient: bool

    def __str__(self) -> str:
        return f"{sum(self.sizes)}:{self.K}>{self.N}"

    @property
    def is_dense(self) -> bool:
        return len(self.sizes) == 1

    @property
    def flops(self) -> int:
        """Of the rows that exist."""
        return 2 * sum(self.sizes) * self.K * self.N


EXPERTS: Final = [
    Product(sizes, K, N, is_gradient)
    for sizes in (AT_1024, AT_512)
    for K, N, is_gradient in (
        (2560, 13824, False),
        (6912, 2560, False),
        (13824, 2560, True),
        (2560, 6912, True),
    )
]
DENSE: Final = [
    Product((rows,), K, N, is_gradient)
    for rows, K, N, is_gradient in (
        (4480, 2560, 7680, False),
        (4480, 7680, 2560, True),
        (4352, 2560, 2560, False),
        (4352, 2560, 7168, False),
        (4352, 7168, 2560, True),
        (4352, 3584, 2560, False),
        (4352, 2560, 3584, True),
        (4096, 2560, 7680, False),
        (1280, 2560, 7680, False),
        (1280, 2560, 2560, False),
        (256, 2560, 13824, False),
    )
]
PRODUCTS: Final = {"experts": EXPERTS, "dense": DENSE}


class Inputs(NamedTuple):
    """What a product reads, and the tensor it writes."""

    rows: torch.Tensor
    weight: torch.Tensor
    """[E, N, K]."""
    ends: torch.Tensor
    scale_M: torch.Tensor | None
    scale_EN: torch.Tensor | None
    out: torch.Tensor


def inputs_of(product: Product, dtype: torch.dtype) -> Inputs:
    """Random ones."""
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    M, E, N, K = sum(product.sizes), len(product.sizes), product.N, product.K
    has_scales = dtype is not torch.bfloat16
    factor = 30.0 if dtype is torch.int8 else 1.0

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def operand(*shape: int) -> torch.Tensor:
        return normal(*shape).mul_(factor).clamp_(-127, 127).to(dtype)

    return Inputs(
        operand(M, K),
        operand(E, N, K),
        ends_of(product.sizes, device),
        normal(M).exp() if has_scales else None,
        normal(E, N).exp() if has_scales and not product.is_gradient else None,
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


def torch_product(product: Product, inputs: Inputs) -> Callable[[], torch.Tensor]:
    """The same in PyTorch."""
    rows, weight, ends, scale_M, scale_EN, _ = inputs
    columns = weight.transpose(1, 2)
    if scale_M is None:
        if product.is_dense:
            return lambda: rows @ columns[0]
        return lambda: functional.grouped_mm(rows, columns, offs=ends)
    scale = torch.ones(weight.shape[:2], device=rows.device) if scale_EN is None else scale_EN
    options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
    if product.is_dense:
        return lambda: torch._scaled_mm(rows, columns[0], scale_M[:, None], scale, **options)
    return lambda: torch._scaled_grouped_mm(rows, columns, scale_M, scale, offs=ends, **options)


def our_product(product: Product, inputs: Inputs, tiling: Tiling) -> Callable[[], torch.Tensor]:
    """Writes into ``inputs.out``."""

    def run() -> torch.Tensor:
        multiply_tiles(
            inputs.out,
            inputs.rows,
            inputs.weight,
            None if product.is_dense else inputs.ends,
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


def library_us(product: Product, dtype: torch.dtype) -> float:
    """Microseconds of PyTorch's product in this type."""
    inputs = inputs_of(product, dtype)
    right, run = right_result(product, inputs), torch_product(product, inputs)
    print(f"{product} PyTorch in {dtype}: worst row {worst_row(run(), right):.4f}", flush=True)
    return checked_us(run, right, float("inf"))


class Times(NamedTuple):
    """Microseconds of one product."""

    product: Product
    bf16: float
    """Of PyTorch."""
    e4m3: float
    """Of PyTorch."""
    ours: list[float]
    """Of each tiling."""


def measured(dtype: torch.dtype, products: list[Product]) -> Iterator[Times]:
    """Each product in PyTorch and in each tiling."""
    for product in products:
        if dtype is torch.bfloat16 and (product.is_gradient or product.is_dense):
            continue  # PyTorch's product computes it
        libraries = [library_us(product, each) for each in (torch.bfloat16, E4M3)]
        inputs = inputs_of(product, dtype)
        right = right_result(product, inputs)
        ours = []
        for tiling in TILINGS[dtype]:
            inputs.out.fill_(torch.nan)
            run = our_product(product, inputs, tiling)
            ours.append(checked_us(run, right, MAX_ROW_ERROR[dtype]))
        yield Times(product, *libraries, ours)


def print_table(dtype: torch.dtype, products: list[Product]) -> None:
    """The table of one type, and what it says."""
    results = list(measured(dtype, products))
    width = 36
    lines = [
        ("PyTorch, bf16", [each.bf16 for each in results]),
        ("PyTorch, e4m3", [each.e4m3 for each in results]),
    ]
    lines += [
        (str(tuple(tiling)), [each.ours[i] for each in results])
        for i, tiling in enumerate(TILINGS[dtype])
    ]
    name = NAMES.get(dtype, "bf16")
    print(f"\n{name}, us".ljust(width), *(f"{each.product!s:>15}" for each in results))
    for label, times_us in lines:
        print(label.ljust(width), *(f"{us:15.1f}" for us in times_us))
    fastest = {
        "PyTorch bf16, TFLOP/s": [each.bf16 for each in results],
        "PyTorch e4m3, TFLOP/s": [each.e4m3 for each in results],
        f"best {name}, TFLOP/s": [min(each.ours) for each in results],
    }
    for label, times_us in fastest.items():
        rates = [each.product.flops / us * 1e-6 for each, us in zip(results, times_us, strict=True)]
        print(label.ljust(width), *(f"{rate:15.0f}" for rate in rates))

    by_output = defaultdict(list)
    for each in results:
        by_output[each.product.sizes, each.product.N].append(each.ours)
    for (sizes, N), times in by_output.items():
        totals = [sum(column) for column in zip(*times, strict=True)]
        i = min(range(len(totals)), key=totals.__getitem__)
        label = f"{name}, {sum(sizes)} rows of {len(sizes)} experts, {N} columns"
        print(f"{label}: {tuple(TILINGS[dtype][i])} {totals[i]:.1f} us")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    types = {NAMES.get(dtype, "bf16"): dtype for dtype in TILINGS}
    parser.add_argument("--type", choices=types, help="of one type only")
    parser.add_argument("--only", choices=PRODUCTS, help="products of one kind only")
    given = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for name, dtype in types.items():
        for kind, products in PRODUCTS.items():
            if given.type in {None, name} and given.only in {None, kind}:
                print_table(dtype, products)


if __name__ == "__main__":
    main()
