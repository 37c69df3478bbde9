"""The modulation of one block for one sample: a row times an int8 weight."""

import torch

from benchmarks.kernel_cases.case import Case
from trainer_core.kernels.few_rows import few_rows_product_plain, few_rows_product_triton


def _case(rows: int, width: int, out: int) -> Case:
    return Case(
        name="few rows x 8-bit weight",
        shape=f"{rows}x{width}->{out}",
        make=lambda draw: (
            draw(rows, width),
            (draw(out, width) * 30).clamp(-127, 127).to(torch.int8),
            draw(out).abs().float(),
        ),
        kernel=lambda *inputs: [few_rows_product_triton(*inputs)],
        plain=lambda *inputs: [few_rows_product_plain(*inputs)],
        forward_bytes=out * width,
        max_error=5e-3,
    )


CASES = [_case(1, 2560, 15360), _case(4, 2560, 30720), _case(2, 100, 33)]
