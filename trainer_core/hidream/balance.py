"""The experts' gate, which also returns the load-balancing loss, with its gradient.

The loss of a layer with experts is Σ_e P_e · f_e; the loss of the model is the sum over its layers.
P_e is the mean probability of expert e over the real tokens of the micro-batch. f_e is E times the
share of the K·N choices that went to expert e. Even routing gives 1 for each layer (48 in the real
model). f is a count and has no gradient. The gradient flows through P to the gate and to the layers
before it.
Source: the auxiliary loss of DeepSeek-V2 (arXiv 2405.04434, section 2.2.3) without its factor.
diffusers computes a similar loss in each gate, with pads included, and discards it.

Letters: B samples, S tokens, N tokens of all samples, E experts, K experts chosen for a token,
D width.
"""

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import (
    MOEFeedForwardSwiGLU,
    MoEGate,
)
from torch import nn
from torch.nn import functional

from trainer_core.hidream.pads import Pads


class ExpertGate(nn.Module):
    """Chooses the experts of each token as diffusers' ``MoEGate`` does, with the same weight.

    It has to be the module that owns the weight, and the loss has to be one of its outputs.
    DeepSpeed gathers a sharded weight for the forward of the module that owns it, and in the
    backward pass for the outputs of that module.
    """

    def __init__(self, stock: MoEGate, *, has_loss: bool) -> None:
        """
        Args:
            stock: the gate it replaces; the two share one weight, [E, D].
            has_loss: compute the loss where gradients are enabled.
        """
        super().__init__()
        self.weight = stock.weight
        self.top_k = int(stock.top_k)
        self.has_loss = has_loss
        self.train(stock.training)

    def forward(
        self, hidden_BSD: torch.Tensor, pads: Pads | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The chosen experts [N, K], their weights [N, K], and the loss, 0-dimensional.

        The loss is None in eval mode and without gradients. Pads are left out of the loss.
        diffusers' own forward, which draws samples, passes no ``pads``.
        """
        logits = functional.linear(hidden_BSD.view(-1, hidden_BSD.shape[-1]), self.weight)
        scores = logits.softmax(dim=-1)
        weights_NK, chosen_NK = torch.topk(scores, k=self.top_k, dim=-1, sorted=False)
        loss = None
        if self.has_loss and self.training and torch.is_grad_enabled():
            loss = layer_balance(hidden_BSD, self.weight, chosen_NK, pads)
        return chosen_NK, weights_NK, loss


def replace_gates(transformer: HiDreamImageTransformer2DModel, *, has_loss: bool) -> int:
    """Replace each of diffusers' gates by an ``ExpertGate``, and return their number.

    Names and order of the parameters do not change.
    """
    layers = [part for part in transformer.modules() if isinstance(part, MOEFeedForwardSwiGLU)]
    for layer in layers:
        layer.gate = ExpertGate(layer.gate, has_loss=has_loss)
    return len(layers)


def layer_balance(
    hidden_BSD: torch.Tensor,
    weight_ED: torch.Tensor,
    chosen_NK: torch.Tensor,
    pads: Pads | None,
) -> torch.Tensor:
    """Σ_e P_e · f_e of one gate, 0-dimensional, in at least fp32, without autocast.

    Args:
        hidden_BSD: the gate's input.
        weight_ED: the gate's weight.
        chosen_NK: the experts chosen for each token.
        pads: left out of the means; None: every token is real.
    """
    B, S, _ = hidden_BSD.shape
    E, K = weight_ED.shape[0], chosen_NK.shape[1]
    with torch.autocast(hidden_BSD.device.type, enabled=False):
        wide = torch.promote_types(hidden_BSD.dtype, torch.float32)
        logits = functional.linear(hidden_BSD.to(wide), weight_ED.to(wide))
        shares_BSE = logits.softmax(dim=-1)
        slots_BSE = functional.one_hot(chosen_NK, E).sum(1).to(wide).view(B, S, -1)
        if pads is None:
            share_E, slots_E = shares_BSE.mean((0, 1)), slots_BSE.mean((0, 1))
        else:
            real_BS1 = pads.real_tokens(S, wide)
            count = real_BS1.sum()
            share_E = (shares_BSE * real_BS1).sum((0, 1)) / count
            slots_E = (slots_BSE * real_BS1).sum((0, 1)) / count
        even = K / E
        loss: torch.Tensor = (share_E * slots_E).sum() / even
        return loss
