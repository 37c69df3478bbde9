"""Builds the fused blocks from the modules of a prepared transformer.

The weights of linears that share an input are put side by side in one tensor, where ``load_base``
has not done so. The modules keep views of it, so nothing is held twice, and names and shapes stay
those of diffusers.

Letters: K input width, N output width, E experts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from peft.tuners.lora import LoraLayer
from torch import nn

from trainer_core.adapters.attach import base_of
from trainer_core.adapters.lokr import LokrLinear
from trainer_core.adapters.lora import SeededDropout
from trainer_core.config.plan import MatmulKind
from trainer_core.config.plan.matmul import has_fused_blocks, has_grouped_products
from trainer_core.hidream.fused.blocks import Attention, FusedBlock, FusedBlocks
from trainer_core.hidream.fused.deltas import DeltaKind, Place
from trainer_core.hidream.fused.expert_deltas import ExpertPlace
from trainer_core.hidream.fused.experts import Experts
from trainer_core.hidream.fused.feed_forward import FeedForward
from trainer_core.hidream.fused.linears import Linears
from trainer_core.hidream.fused.weights import Weight
from trainer_core.hidream.host.weights import ALL_ON_DEVICE, HostWeights
from trainer_core.kernels.grouped_mm import SIDE_MULTIPLE
from trainer_core.kernels.transpose8 import transposed_rows8
from trainer_core.precision.base_weights import joined
from trainer_core.precision.compute import Compute, capability_of
from trainer_core.precision.linear8 import Linear8


def fused_blocks(
    transformer: HiDreamImageTransformer2DModel,
    *,
    recomputed: frozenset[int],
    keeps_transposed: bool,
    host: HostWeights = ALL_ON_DEVICE,
) -> FusedBlocks:
    """The blocks of a transformer whose base is frozen; adapters are attached.

    Args:
        transformer: its block linears are ``nn.Linear`` or ``Linear8``, on one device.
        recomputed: numbers of the blocks that are computed again in the backward pass.
        keeps_transposed: hold 8-bit weights also transposed: faster, for twice the memory.
        host: what of the transformer the host holds; only blocks that are recomputed.
    """
    assert host.items.keys() <= recomputed
    builder = _Builder(keeps_transposed)
    blocks = [
        builder.block(f"{stream}.{i}.block", holder.block)
        for stream in ("double_stream_blocks", "single_stream_blocks")
        for i, holder in enumerate(getattr(transformer, stream))
    ]
    attention = transformer.single_stream_blocks[0].block.attn1
    return FusedBlocks(
        blocks=blocks,
        heads=int(attention.heads),
        norm_eps=float(attention.q_rms_norm.eps),
        recomputed=recomputed,
        host=host,
    )


def refusal(
    transformer: HiDreamImageTransformer2DModel, compute: Compute, matmul: MatmulKind
) -> str | None:
    """Why the blocks of a prepared transformer cannot be fused; None: they can.

    ``matmul``: how the frozen base is multiplied.
    """
    capability = capability_of(compute.device)
    if not has_fused_blocks(capability, matmul):
        return "fused blocks need a CUDA card of capability 9 or 10, or of 8 with 8-bit products"
    if compute.weights is not torch.bfloat16:
        return "fused blocks compute in bf16"
    if any(parameter.requires_grad for parameter in _frozen_parts(transformer)):
        return "fused blocks need a frozen base"
    return next(_unfusable(transformer, has_grouped_products(capability)), None)


def _unfusable(transformer: nn.Module, has_grouped: bool) -> Iterator[str]:
    """What the fused blocks do not multiply, and why."""
    for path, part in transformer.named_modules():
        if isinstance(part, MOEFeedForwardSwiGLU) and not can_group(part):
            yield f"the adapters of the experts of {path} cannot be multiplied in groups"
        if isinstance(part, MOEFeedForwardSwiGLU) and _has_adapters(part) and not has_grouped:
            yield "adapters of experts need a CUDA card of capability 9 or 10"
        if type(part) in _FUSABLE or not isinstance(part, nn.Linear | Linear8):
            continue
        if "_blocks." in path and "lora_" not in path:
            yield f"fused blocks do not multiply a {type(part).__name__}"


_FUSABLE: Final = (nn.Linear, Linear8)


def _frozen_parts(transformer: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter that an adapter did not add."""
    adapters = [part for part in transformer.modules() if isinstance(part, LokrLinear | LoraLayer)]
    own = {
        id(parameter)
        for part in adapters
        for name, parameter in part.named_parameters()
        if not name.startswith(("base.", "base_layer."))
    }
    return (each for each in transformer.parameters() if id(each) not in own)


def can_group(layer: Any) -> bool:
    """Whether a grouped product can multiply the adapters of a layer's routed experts.

    Each linear has the same kind and shape of adapter in all experts, and the product takes its
    sides.
    """
    return all(
        len({_signature(getattr(expert, name)) for expert in layer.experts}) == 1
        and not any(
            side % SIDE_MULTIPLE for side in _grouped_sides(getattr(layer.experts[0], name))
        )
        for name in ("w1", "w2", "w3")
    )


def _has_adapters(layer: Any) -> bool:
    return any(_kind(getattr(layer.experts[0], name)) is not None for name in ("w1", "w2", "w3"))


def _grouped_sides(linear: nn.Module) -> tuple[int, ...]:
    """Sides of an adapter's matrices; its inputs and outputs are those of its linear."""
    if isinstance(linear, LoraLayer):
        return (int(linear.r["default"]),)
    if not isinstance(linear, LokrLinear):
        return ()
    left = linear.w2_a if linear.w2 is None else linear.w2
    right = linear.w2_b if linear.w2 is None else linear.w2
    assert left is not None
    assert right is not None
    return left.shape[0], right.shape[1]


def _signature(linear: nn.Module) -> tuple[Any, ...]:
    if _kind(linear) is None:
        return ()
    shapes = [
        (name, parameter.shape)
        for name, parameter in linear.named_parameters()
        if not name.startswith(("base.", "base_layer."))
    ]
    return (_kind(linear), *shapes)


class _Builder:
    def __init__(self, keeps_transposed: bool) -> None:
        self._keeps_transposed = keeps_transposed

    def block(self, path: str, block: Any) -> FusedBlock:
        attn = f"{path}.attn1"
        is_double = hasattr(block, "ff_t")
        return FusedBlock(
            attention=self._attention(attn, block.attn1, ""),
            feed=self._feed(f"{path}.ff_i", block.ff_i),
            text_attention=self._attention(attn, block.attn1, "_t") if is_double else None,
            text_feed=self._feed_forward(f"{path}.ff_t", block.ff_t) if is_double else None,
            has_balance=isinstance(block.ff_i, MOEFeedForwardSwiGLU) and block.ff_i.gate.has_loss,
        )

    def _attention(self, path: str, attn: Any, suffix: str) -> Attention:
        return Attention(
            qkv=self._linears(path, attn, [f"{name}{suffix}" for name in ("to_q", "to_k", "to_v")]),
            query_norm_F=getattr(attn, f"q_rms_norm{suffix}").weight,
            key_norm_F=getattr(attn, f"k_rms_norm{suffix}").weight,
            out=self._linears(path, attn, [f"to_out{suffix}"]),
        )

    def _feed(self, path: str, layer: Any) -> Experts | FeedForward:
        if not isinstance(layer, MOEFeedForwardSwiGLU):
            return self._feed_forward(path, layer)
        up, places_up = self._experts(path, layer, ("w1", "w3"))
        down, places_down = self._experts(path, layer, ("w2",))
        return Experts(
            gate_EF=layer.gate.weight,
            choices=int(layer.num_activated_experts),
            up=up,
            down=down,
            shared=self._feed_forward(f"{path}.shared_experts", layer.shared_experts),
            places_up=places_up,
            places_down=places_down,
        )

    def _feed_forward(self, path: str, layer: nn.Module) -> FeedForward:
        return FeedForward(
            up=self._linears(path, layer, ["w1", "w3"]), down=self._linears(path, layer, ["w2"])
        )

    def _linears(self, path: str, parent: nn.Module, names: Sequence[str]) -> Linears:
        """The children ``names`` of a module as one product."""
        children = [getattr(parent, name) for name in names]
        weight = self._joined([base_of(child) for child in children])
        places, paths, start = [], [], 0
        for name, child in zip(names, children, strict=True):
            stop = start + base_of(child).out_features
            kind = _kind(child)
            if kind is not None:
                places.append(Place(kind, start, stop, *_dropout(child)))
                paths.append(f"{path}.{name}")
            start = stop
        return Linears(weight=weight, places=tuple(places), paths=tuple(paths))

    def _joined(self, linears: Sequence[Any]) -> Weight:
        biases = [linear.bias for linear in linears]
        bias = None
        if biases[0] is not None:
            bias = torch.cat(biases)
        if isinstance(linears[0], Linear8):
            rows8 = _shared(linears, "rows8", joined)
            scale = _shared(linears, "scale", joined)
            return Weight(rows8=rows8, scale=scale, bias=bias, transposed=self._transposed(rows8))
        return Weight(whole=_shared(linears, "weight", joined), bias=bias)

    def _experts(
        self, path: str, layer: Any, names: tuple[str, ...]
    ) -> tuple[Weight, tuple[ExpertPlace, ...]]:
        """The linears of these names of all experts as one grouped product."""
        linears = [base_of(getattr(expert, name)) for expert in layer.experts for name in names]
        E = len(layer.experts)

        def stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            whole = joined(parts)
            return whole.view(E, -1, whole.shape[1]) if whole.ndim == 2 else whole.view(E, -1)

        places, start = [], 0
        for name in names:
            children = [getattr(expert, name) for expert in layer.experts]
            stop = start + base_of(children[0]).out_features
            kind = _kind(children[0])
            if kind is not None:
                paths = tuple(f"{path}.experts.{e}.{name}" for e in range(E))
                places.append(ExpertPlace(kind, start, stop, paths, *_dropout(children[0])))
            start = stop
        if isinstance(linears[0], Linear8):
            rows8, scale = (_shared(linears, name, stacked) for name in ("rows8", "scale"))
            weight = Weight(rows8=rows8, scale=scale, transposed=self._transposed(rows8))
        else:
            weight = Weight(whole=_shared(linears, "weight", stacked))
        return weight, tuple(places)

    def _transposed(self, rows8: torch.Tensor) -> torch.Tensor | None:
        return transposed_rows8(rows8) if self._keeps_transposed else None


def _shared(
    linears: Sequence[nn.Module],
    name: str,
    join: Callable[[Sequence[torch.Tensor]], torch.Tensor],
) -> torch.Tensor:
    """The tensors ``name`` of some linears joined into one, of which each gets its view."""
    parts = [getattr(linear, name) for linear in linears]
    whole = join([part.detach() for part in parts])
    views = torch.split(whole.view(-1, *parts[0].shape[1:]), [len(part) for part in parts])
    for linear, part, view in zip(linears, parts, views, strict=True):
        if isinstance(part, nn.Parameter):
            part.data = view
        else:
            setattr(linear, name, view)
    return whole


def _kind(linear: nn.Module) -> DeltaKind | None:
    if isinstance(linear, LokrLinear):
        return "lokr"
    return "lora" if isinstance(linear, LoraLayer) else None


def _dropout(linear: nn.Module) -> tuple[float, int]:
    """Probability and number of a linear's dropout."""
    if isinstance(linear, LoraLayer):
        layer = linear.lora_dropout["default"]
        if isinstance(layer, SeededDropout):
            return layer.p, layer.number
    return 0.0, 0
