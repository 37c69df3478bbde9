"""Gradient checkpointing: blocks whose activations are made again in the backward pass."""

from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch.utils.checkpoint import checkpoint


def recompute_blocks(transformer: HiDreamImageTransformer2DModel, interval: int) -> None:
    """Recompute block i where i is a multiple of ``interval``; the others keep their activations.

    Double-stream blocks are counted from 0 and single-stream blocks go on from there. A recomputed
    block sees the same random numbers (dropout) as in its first pass.
    """
    blocks = [*transformer.double_stream_blocks, *transformer.single_stream_blocks]
    numbers = {id(block): i for i, block in enumerate(blocks)}

    def run(block: torch.nn.Module, *inputs: Any) -> Any:
        if numbers[id(block)] % interval:
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=True)

    transformer.enable_gradient_checkpointing(run)
