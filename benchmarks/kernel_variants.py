"""Times kernels with other launch parameters than those they are given, to choose them.

    TRITON_INTERPRET=0 python -m benchmarks.kernel_variants

One line a variant. The first of each kind is what the kernel uses.
"""

from collections.abc import Callable, Iterator

import torch

from benchmarks.kernels import time_us
from trainer_core.kernels.lokr_mix import mix_add_blocks, mix_grad_blocks, sum_parts
from trainer_core.kernels.route import route_tokens
from trainer_core.kernels.rows8 import quantize_row
from trainer_core.kernels.swiglu_rows import backward_row, forward_row
from trainer_core.kernels.transpose8 import transpose_tile
from trainer_core.kernels.triton_support import next_power_of_2

Variants = Iterator[tuple[str, Callable[[], object]]]


def _normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def _quantize(rows: int, F: int, choices: list[tuple[int, int]]) -> Variants:
    """Columns of a block, and warps."""
    x, factor = _normal(rows, F), torch.rand(F, device="cuda")
    rows8 = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(rows, device="cuda")
    for has_factor in (False, True):
        for chunk, warps in choices:

            def run(
                factor: torch.Tensor | None = factor if has_factor else None,
                chunk: int = chunk,
                warps: int = warps,
            ) -> None:
                quantize_row[(rows,)](
                    *(x, factor, None, None, None, rows8, scale, F, 0, 1),
                    F=F,
                    CHOICES=1,
                    CHUNK=chunk,
                    num_warps=warps,
                )

            extra = ", with factor" * has_factor
            yield f"rows to 8 bits{extra} {rows}x{F} chunk {chunk} warps {warps}", run


def _route(rows: int, choices: list[tuple[int, int, int, int]]) -> Variants:
    """Tokens of a block, columns of a block, warps, and blocks of columns on their way."""
    x, gate = _normal(rows, 2560), _normal(4, 2560)
    probability, weight = _normal(rows, 4), _normal(rows, 2)
    chosen = torch.empty_like(weight, dtype=torch.int64)
    for tokens, columns, warps, stages in choices:

        def run(
            tokens: int = tokens, columns: int = columns, warps: int = warps, stages: int = stages
        ) -> None:
            route_tokens[(-(-rows // tokens),)](
                *(x, gate, probability, chosen, weight, 2560, rows, 2560),
                E=4,
                K=2,
                TOKENS=tokens,
                EXPERTS=8,
                COLUMNS=columns,
                num_warps=warps,
                num_stages=stages,
            )

        label = f"tokens {tokens} columns {columns} warps {warps} stages {stages}"
        yield f"route {rows}x2560 {label}", run


def _swiglu_gradient(rows: int, H: int, choices: list[tuple[int, int, int | None]]) -> Variants:
    """Columns of a block, warps, and bound of a thread's registers."""
    grad, up = _normal(rows, H), _normal(rows, 2 * H)
    weight, factor = torch.rand(rows, device="cuda"), torch.rand(4, 2 * H, device="cuda")
    expert = torch.arange(rows, dtype=torch.int32, device="cuda") * 4 // rows
    rows8 = torch.empty_like(up, dtype=torch.float8_e4m3fn)
    scale, grad_weight = torch.empty_like(weight), torch.empty_like(weight)
    tensors = (grad, up, weight, factor, expert, None, rows8, scale, grad_weight)
    for chunk, warps, registers in choices:

        def run(chunk: int = chunk, warps: int = warps, registers: int | None = registers) -> None:
            backward_row[(rows,)](*tensors, H=H, CHUNK=chunk, num_warps=warps, maxnreg=registers)

        label = f"chunk {chunk} warps {warps} registers {registers or 'free'}"
        yield f"swiglu gradient to 8 bits {rows}x{H} {label}", run


def _swiglu(rows: int, H: int, choices: list[tuple[int, int]]) -> Variants:
    """Columns of a block, and warps."""
    up, weight = _normal(rows, 2 * H), torch.rand(rows, device="cuda")
    rows8 = torch.empty(rows, H, device="cuda", dtype=torch.float8_e4m3fn)
    scale = torch.empty_like(weight)
    for chunk, warps in choices:

        def run(chunk: int = chunk, warps: int = warps) -> None:
            forward_row[(rows,)](up, weight, None, rows8, scale, H=H, CHUNK=chunk, num_warps=warps)

        yield f"swiglu to 8 bits {rows}x{H} chunk {chunk} warps {warps}", run


def _lokr_mix(rows: int, K: int, choices: list[tuple[int, int, int]]) -> Variants:
    """Columns of a block, warps, and programs of the gradients."""
    out, hidden, w1 = _normal(rows, 16 * K), _normal(rows, 16, K), _normal(16, 16)
    grad_hidden = torch.empty_like(hidden)
    sizes = {"a": 16, "c": 16, "K": K, "A": 16, "C": 16}
    for block, warps, programs in choices:
        parts = torch.empty(programs, 16, 16, device="cuda")

        def add(block: int = block, warps: int = warps) -> None:
            mix_add_blocks[(-(-rows * K // block),)](
                *(out, hidden, w1, rows * K, 16 * K, 16 * K, K),
                **sizes,
                BLOCK=block,
                num_warps=warps,
            )

        def gradients(block: int = block, warps: int = warps, parts: torch.Tensor = parts) -> None:
            mix_grad_blocks[(len(parts),)](
                *(out, hidden, w1, grad_hidden, parts, rows * K, 16 * K, 16 * K, K, 16 * K, K),
                **sizes,
                BLOCK=block,
                num_warps=warps,
            )

        label = f"{rows}x16x{K} block {block} warps {warps}"
        yield f"lokr mix, add {label}", add
        yield f"lokr mix, gradients {label} programs {programs}", gradients


def _lokr_sum(choices: list[tuple[int, int, int]]) -> Variants:
    """Programs whose parts are summed, columns of a block, and warps."""
    for programs, block, warps in choices:
        parts = torch.randn(programs, 256, device="cuda")
        out = torch.empty(256, device="cuda")

        def run(
            parts: torch.Tensor = parts,
            out: torch.Tensor = out,
            block: int = block,
            warps: int = warps,
        ) -> None:
            sum_parts[(256 // block,)](
                *(parts, out, len(parts), 256),
                BLOCK=block,
                PARTS=next_power_of_2(len(parts)),
                num_warps=warps,
            )

        yield f"lokr mix, sum of parts {programs}x256 block {block} warps {warps}", run


def _transpose(shape: tuple[int, int, int], choices: list[tuple[int, int]]) -> Variants:
    """Rows and columns of a tile, and warps."""
    matrices, N, K = shape
    w8 = torch.randint(0, 256, shape, device="cuda", dtype=torch.uint8)
    out = torch.empty_like(w8)
    for tile, warps in choices:

        def run(tile: int = tile, warps: int = warps) -> None:
            tiles = (-(-K // tile), -(-N // tile), matrices)
            transpose_tile[tiles](w8, out, N, K, TILE=tile, num_warps=warps)

        yield f"transpose {shape} tile {tile} warps {warps}", run


def main() -> None:
    """Print one line a variant."""
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    free = None
    groups = [
        _quantize(4480, 2560, [(512, 2), (512, 1), (512, 4), (1024, 4), (256, 1), (4096, 8)]),
        _quantize(4480, 7680, [(1024, 4), (1024, 2), (1024, 8), (512, 2), (8192, 16)]),
        _route(
            4352,
            [
                (16, 256, 4, 4),
                (16, 256, 2, 4),
                (16, 256, 1, 4),
                (16, 512, 4, 3),
                (16, 512, 4, 4),
                (32, 256, 4, 4),
            ],
        ),
        _swiglu_gradient(
            8960,
            6912,
            [
                (1024, 8, 80),
                (1024, 8, 64),
                (1024, 8, free),
                (1024, 4, free),
                (2048, 16, 64),
                (512, 4, 128),
                (8192, 16, free),
                (8192, 16, 64),
            ],
        ),
        _swiglu_gradient(4352, 3584, [(512, 4, 80), (512, 4, 64), (512, 4, free), (1024, 8, 64)]),
        _swiglu(8960, 6912, [(1024, 8), (1024, 4), (2048, 8), (8192, 16)]),
        _lokr_mix(
            4480,
            160,
            [(128, 2, 792), (64, 2, 1320), (128, 4, 528), (256, 4, 264), (256, 4, 528)],
        ),
        _lokr_sum([(792, 8, 8), (792, 8, 4), (792, 16, 8), (792, 4, 4), (528, 8, 8), (264, 8, 8)]),
        _transpose((4, 13824, 2560), [(128, 4), (128, 8), (64, 4), (64, 2)]),
    ]
    for group in groups:
        for label, run in group:
            print(f"{label:90} {time_us(run):7.1f} us", flush=True)


if __name__ == "__main__":
    main()
