"""What a block gets and returns, whichever way it is computed."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from trainer_core.adapters.factors import AdapterFactors
from trainer_core.hidream.pads import Pads

NoteExperts = Callable[[torch.Tensor], None]
"""Gets the experts that each token chose in one layer, [tokens, choices], layer by layer."""


class Conditions(NamedTuple):
    """Inputs that all blocks of a forward share."""

    modulation: Callable[[int], torch.Tensor]
    """Computes the modulation of a block, by number: [B, 12 · F] or, of a single-stream block,
    [B, 6 · F]. Called once a block, just before it: weights that the host holds are there then."""
    rope: torch.Tensor
    """Rotary embedding, [1, R, 1, D / 2, 2, 2], fp32: of image, text and tail tokens."""
    pads: Pads | None
    adapter: AdapterFactors
    """The adapter's matrices; read by the fused blocks only."""
    note_experts: NoteExperts | None = None


class Double(NamedTuple):
    """Outputs of a double-stream block."""

    image_BPF: torch.Tensor
    text_BTF: torch.Tensor
    balance: torch.Tensor | None
    """Load-balancing loss of the block's gate, where it computes one."""


class Single(NamedTuple):
    """Outputs of a single-stream block."""

    hidden_BSF: torch.Tensor
    balance: torch.Tensor | None


class Blocks(Protocol):
    """The blocks of a transformer.

    The tail's tokens are attended to, and then dropped. It may be None.
    """

    def double(
        self,
        number: int,
        image_BPF: torch.Tensor,
        text_BTF: torch.Tensor,
        tail_BTF: torch.Tensor | None,
        conditions: Conditions,
    ) -> Double:
        """Block ``number``, counted from 0."""

    def single(
        self,
        number: int,
        hidden_BSF: torch.Tensor,
        tail_BTF: torch.Tensor | None,
        conditions: Conditions,
    ) -> Single:
        """Block ``number``, counted from the first double-stream block."""
