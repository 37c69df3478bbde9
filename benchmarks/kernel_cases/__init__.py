"""The kernels of ``trainer_core.kernels`` at the shapes of a 1024² step of HiDream-I1.

``tests/gpu/test_kernels.py`` compares each case with PyTorch in float64, and
``python -m benchmarks.kernels`` times it. A new operation is a module with ``CASES`` and its name
in the list below.
"""

from benchmarks.kernel_cases import (
    add_norm,
    dense_product8,
    dropout,
    experts,
    few_rows,
    gated_rows,
    grouped_product,
    lokr_mix,
    qkv_heads,
    route,
    rows8,
    swiglu,
    transpose8,
)

CASES = [
    *rows8.CASES,
    *gated_rows.CASES,
    *add_norm.CASES,
    *qkv_heads.CASES,
    *route.CASES,
    *experts.CASES,
    *swiglu.CASES,
    *grouped_product.CASES,
    *dense_product8.CASES,
    *lokr_mix.CASES,
    *transpose8.CASES,
    *dropout.CASES,
    *few_rows.CASES,
]
