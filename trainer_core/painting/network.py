"""A prepared network as diffusers' pipeline calls a transformer."""

from typing import Any

import torch
from torch import nn

from trainer_core.hidream.fused.blocks import FusedBlocks
from trainer_core.hidream.network import Network
from trainer_core.hidream.text import TextEmbeddings


class NetworkTransformer(nn.Module):
    """Samples with the blocks that a run trains with, which are faster than diffusers' own."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.transformer = network.transformer  # a sub-module: its mode is set with this one's
        self._network = network
        self.config = network.transformer.config
        self.max_seq = network.transformer.max_seq
        self.dtype = network.compute.weights
        self.device = network.compute.device

    def forward(
        self,
        *,
        hidden_states: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states_t5: torch.Tensor,
        encoder_hidden_states_llama3: torch.Tensor,
        pooled_embeds: torch.Tensor,
        **_: Any,
    ) -> tuple[torch.Tensor]:
        """The velocity from noise to data, [B, C, H, W], in the type of the latents.

        The Llama states are [L, B, T, D].
        """
        text = TextEmbeddings(
            encoder_hidden_states_t5,
            encoder_hidden_states_llama3.transpose(0, 1),
            pooled_embeds,
        )
        prediction = self._network.velocity(hidden_states, timesteps, text, "stock")
        return (-prediction.velocity_BCHW.to(hidden_states.dtype),)


def transformer_of(network: Network) -> nn.Module:
    """What samples with a network: its fused blocks, or else diffusers' own forward."""
    if isinstance(network.blocks, FusedBlocks):
        return NetworkTransformer(network)
    transformer: nn.Module = network.transformer
    return transformer
