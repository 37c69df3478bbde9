"""Gradients that are in memory together where each is freed by its weight's update. No torch."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from trainer_core.config.plan import Identity
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.memory.weights import FP32_BYTES, trained_number

_EXPERTS: Final = ".experts."
_TOGETHER: Final = (".w1", ".w3")
"""Weights of experts that are multiplied at once: their gradients come together."""
_PIECE_ELEMENTS: Final = 1 << 24
_FP32_OF_PIECE: Final = 10
"""An update computes in fp32, in pieces: copies of gradient, moments and value, and what it
computes from them."""


def largest_gradient_bytes(identity: Identity, transformer: Mapping[str, Any]) -> int:
    """The most that is in memory at once: gradients, and what their update needs beside them.

    ``transformer``: its configuration.
    """
    single, together = 0, Counter[str]()
    for linear in hidream_linears(transformer):
        elements = linear.in_features * linear.out_features
        single = max(single, elements)
        block, _, rest = linear.path.partition(_EXPERTS)
        if rest.endswith(_TOGETHER):
            together[block] += elements
    gradients = max(together.values(), default=0) + single
    work = min(single, _PIECE_ELEMENTS) * _FP32_OF_PIECE * FP32_BYTES
    return gradients * trained_number(identity) + work
