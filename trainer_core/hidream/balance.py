"""The experts' load-balancing loss, with its gradient.

For each layer with experts Σ_e P_e · f_e, summed over the layers. P_e is the mean probability of
expert e over the micro-batch's real tokens; f_e is E times the share of the chosen slots that went
to e, E the number of experts. Even routing gives 1 a layer (48 in the real model). f is a count and
has no gradient; P carries it to the gate and to all before it.
Source: the auxiliary loss of DeepSeek-V2 (arXiv 2405.04434, section 2.2.3) without its factor;
diffusers computes a like one in each gate, over pads too, and drops it.

Letters: B samples, S tokens, N tokens of all samples, E experts, K chosen a token, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import HiDreamBlock, MoEGate
from torch import nn
from torch.nn import functional

from trainer_core.hidream.pads import real_tokens


class Terms:
    """What the layers of one forward add, in their order."""

    def __init__(self) -> None:
        self._terms: list[torch.Tensor] = []
        self.is_open = False

    def add(self, term: torch.Tensor) -> None:
        """Nothing is kept once the forward is over: a block computed again adds nothing twice."""
        if self.is_open:
            self._terms.append(term)

    def total(self) -> torch.Tensor:
        """0-dimensional, at least fp32. Raises ValueError where no layer has experts."""
        if not self._terms:
            raise ValueError("there is no layer with experts to balance")
        return torch.stack(self._terms).sum()


@contextmanager
def balance_terms(transformer: HiDreamImageTransformer2DModel) -> Iterator[Terms]:
    """Collect the terms of the forwards inside that are in train mode and want gradients.

    The hooks stay when it is over, and go on computing: a block that is computed again for its
    gradient has to do the very same. They are taken off with ``stop_balancing``.
    """
    watch = _watch_of(transformer) or _install(transformer)
    terms = Terms()
    terms.is_open = True
    watch.terms = terms
    try:
        yield terms
    finally:
        terms.is_open = False


def stop_balancing(transformer: HiDreamImageTransformer2DModel) -> None:
    """Take the hooks off, where there are any; after the last backward of a balanced forward."""
    watch = _watch_of(transformer)
    if watch is not None:
        for handle in watch.handles:
            handle.remove()
        del transformer.expert_watch


class _Watch:
    """The hooks of one model, and where they put what they compute."""

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.terms = Terms()
        self._mask_BS: torch.Tensor | None = None

    def note_mask(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a block: its mask says which of the tokens are pads.

        It comes by name, or second where the block is checkpointed.
        """
        self._mask_BS = kwargs["hidden_states_masks"] if kwargs else args[1]

    def compute(
        self, gate: MoEGate, args: tuple[torch.Tensor], output: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Put the term in the place of what the gate computed and diffusers drops."""
        chosen, weights, _ = output
        if not (gate.training and torch.is_grad_enabled()):
            return output
        return chosen, weights, gate_term(gate, args[0], chosen, real_tokens(self._mask_BS))

    def collect(self, gate: MoEGate, _: tuple[torch.Tensor], output: tuple[Any, ...]) -> None:
        if gate.training and torch.is_grad_enabled():
            self.terms.add(output[2])


def _watch_of(transformer: HiDreamImageTransformer2DModel) -> _Watch | None:
    watch = transformer.__dict__.get("expert_watch")
    return watch if isinstance(watch, _Watch) else None


def _install(transformer: HiDreamImageTransformer2DModel) -> _Watch:
    watch = _Watch()
    for part in transformer.modules():
        if isinstance(part, HiDreamBlock):
            hook = part.register_forward_pre_hook(watch.note_mask, with_kwargs=True)
            watch.handles.append(hook)
        elif isinstance(part, MoEGate):
            # First among the hooks, where a sharded gate still has its weight; and last, where the
            # term has gone through what brings that weight back for the gradient.
            watch.handles.append(part.register_forward_hook(watch.compute, prepend=True))
            watch.handles.append(part.register_forward_hook(watch.collect))
    transformer.expert_watch = watch
    return watch


def gate_term(
    gate: MoEGate,
    hidden_BSD: torch.Tensor,
    chosen_NK: torch.Tensor,
    real_BS: torch.Tensor | None,
) -> torch.Tensor:
    """Σ_e P_e · f_e of one gate, 0-dimensional, at least fp32 and never autocast.

    Args:
        gate: its weight is [E, D].
        hidden_BSD: what went into it.
        chosen_NK: the experts that it chose for each token.
        real_BS: which tokens count; it may end before the tokens do, and all after it count.
    """
    B, S, _ = hidden_BSD.shape
    with torch.autocast(hidden_BSD.device.type, enabled=False):
        wide = torch.promote_types(hidden_BSD.dtype, torch.float32)
        logits = functional.linear(hidden_BSD.to(wide), gate.weight.to(wide))
        shares_BSE = logits.softmax(dim=-1)
        slots_BSE = functional.one_hot(chosen_NK, gate.n_routed_experts).sum(1).to(wide)
        slots_BSE = slots_BSE.view(B, S, -1)
        if real_BS is None:
            share_E, slots_E = shares_BSE.mean((0, 1)), slots_BSE.mean((0, 1))
        else:
            real_BS1 = functional.pad(real_BS.to(wide), (0, S - real_BS.shape[1]), value=1)[
                ..., None
            ]
            count = real_BS1.sum()
            share_E = (shares_BSE * real_BS1).sum((0, 1)) / count
            slots_E = (slots_BSE * real_BS1).sum((0, 1)) / count
        even = gate.top_k / gate.n_routed_experts
        term: torch.Tensor = (share_E * slots_E).sum() / even
        return term
