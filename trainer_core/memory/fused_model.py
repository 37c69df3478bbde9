"""The facts of a plan with an adapter that its memory on a CUDA card follows from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self, assert_never

from trainer_core.config.plan import (
    AdaptedModule,
    Compute,
    LoraAdapter,
    MatmulKind,
    Plan,
)
from trainer_core.config.plan.matmul import Capability, has_fused_blocks, has_grouped_products
from trainer_core.config.plan.shapes import LinearShape, factorization, hidream_linears
from trainer_core.memory.optimizer_state import optimizer_state_bytes
from trainer_core.memory.trained import trained_parameters, trained_tensors
from trainer_core.memory.weights import BF16_BYTES, FP32_BYTES

LIVE_TEXT_TOKENS: Final = 2 * 128
"""Of T5 and of Llama's last layer: they go through all blocks."""
TAIL_TOKENS: Final = 128
"""Of the block's own Llama layer: only their keys and values are used."""
_BLOCK: Final = re.compile(r"(double|single)_stream_blocks\.(\d+)\.block\.")
_CAPTION: Final = re.compile(r"caption_projection\.(\d+)\.")
_PATCH_PX: Final = 16
"""Side of the square of pixels that one image token covers."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The shape of a micro-batch."""

    samples: int
    image: int
    """Image tokens of a sample."""


def compute_bytes(compute: Compute) -> int:
    """Bytes of one number of the compute type."""
    match compute:
        case "bf16":
            return BF16_BYTES
        case "fp32":
            return FP32_BYTES
    assert_never(compute)


def tokens_of(plan: Plan, image_px: int) -> Tokens:
    """The micro-batches of images of this area."""
    return Tokens(plan.identity.micro_batch_size, max(1, image_px // _PATCH_PX**2))


def is_fused(plan: Plan, matmul: MatmulKind) -> bool:
    """Whether a CUDA card computes the plan with the fused blocks.

    They multiply a frozen base in bf16 or in 8 bits; int8 weights that are converted before each
    product are left to optimum-quanto.
    """
    precision = plan.identity.precision
    is_converted = precision.base != "no_change" and matmul == "no_change"
    return plan.identity.adapter is not None and precision.compute == "bf16" and not is_converted


def is_fused_on(plan: Plan, matmul: MatmulKind, capability: Capability | None) -> bool:
    """``is_fused``, on a card of this capability; None: on a CPU, which never does it.

    Adapters of routed experts are multiplied by torch's grouped products.
    """
    has_card = has_fused_blocks(capability, matmul) and (
        has_grouped_products(capability)
        or not any(".experts." in path for path in adapted_paths(plan))
    )
    return has_card and is_fused(plan, matmul)


def adapted_paths(plan: Plan) -> list[str]:
    """Path of every linear that the adapter adapts, in order; none without an adapter."""
    adapter = plan.identity.adapter
    if adapter is None:
        return []
    return [each if isinstance(each, str) else each.path for each in adapter.modules]


@dataclass(frozen=True, kw_only=True)
class FusedModel:
    """A frozen transformer with an adapter, as the fused blocks compute it."""

    linears: Mapping[str, LinearShape]
    """By path."""
    inner: Mapping[str, int]
    """Path of an adapted linear → numbers a row that its delta keeps: X · W2ᵀ of LoKr, A · x of
    LoRA."""
    width: int
    heads: int
    doubles: int
    singles: int
    experts: int
    """Routed ones of a layer; 0: one plain feed-forward."""
    choices: int
    """Experts that a token uses, beside the shared one."""
    compute: Compute
    matmul: MatmulKind
    """With 8-bit products the base is held in 8 bits, but for its first and last layers."""
    has_balance: bool
    """Whether the gates' load-balancing loss is trained on."""
    llama_layers: int
    """Hidden states of Llama in the cached text of a caption."""
    trained: int
    """Parameters of the adapter."""
    adapter_bytes: int
    """The adapter, its gradients, optimizer state and running mean."""

    @classmethod
    def of(cls, plan: Plan, transformer: Mapping[str, Any], matmul: MatmulKind) -> Self:
        """
        Args:
            plan: ``is_fused``.
            transformer: its configuration.
            matmul: how the run multiplies with the base.
        """
        identity = plan.identity
        linears = {linear.path: linear for linear in hidream_linears(transformer)}
        heads = int(transformer["num_attention_heads"])
        return cls(
            linears=linears,
            inner=_inner_widths(plan, linears),
            width=heads * int(transformer["attention_head_dim"]),
            heads=heads,
            doubles=int(transformer["num_layers"]),
            singles=int(transformer["num_single_layers"]),
            experts=int(transformer.get("num_routed_experts", 4)),
            choices=int(transformer.get("num_activated_experts", 2)),
            compute=identity.precision.compute,
            matmul=matmul,
            has_balance=identity.objective.balance_weight > 0,
            llama_layers=max(transformer["llama_layers"]) + 1,
            trained=trained_parameters(identity, transformer),
            adapter_bytes=_adapter_bytes(plan, transformer),
        )

    @cached_property
    def first_trained(self) -> int:
        """The first block that a gradient is computed in."""
        return min(map(self._reaches, self.inner))

    @property
    def blocks(self) -> int:
        return self.doubles + self.singles

    @property
    def number_bytes(self) -> int:
        """Bytes of one number of an activation, and of a weight that is not in 8 bits."""
        return compute_bytes(self.compute)

    def block_path(self, number: int) -> str:
        """The start of the paths in block ``number``; single-stream blocks follow the double."""
        if number < self.doubles:
            return f"double_stream_blocks.{number}.block."
        return f"single_stream_blocks.{number - self.doubles}.block."

    def block_of(self, path: str) -> int | None:
        """Number of the block that a linear is in; None: it is in none."""
        match = _BLOCK.match(path)
        if match is None:
            return None
        return int(match[2]) + (0 if match[1] == "double" else self.doubles)

    def _reaches(self, path: str) -> int:
        """The first block whose outputs depend on a linear."""
        if (number := self.block_of(path)) is not None:
            return number
        if path.startswith("final_layer."):
            return self.blocks
        caption = _CAPTION.match(path)
        # The last Llama caption and T5's go through all blocks.
        if caption is not None and int(caption[1]) < self.blocks - 1:
            return int(caption[1])
        return 0


def _adapter_bytes(plan: Plan, transformer: Mapping[str, Any]) -> int:
    identity = plan.identity
    tensors = trained_tensors(identity, transformer)
    copies = 2 if identity.ema is None else 3
    state = optimizer_state_bytes(identity, tensors)
    return copies * FP32_BYTES * sum(tensor.elements for tensor in tensors) + state


def _inner_widths(plan: Plan, linears: Mapping[str, LinearShape]) -> dict[str, int]:
    adapter = plan.identity.adapter
    assert adapter is not None, "the fused blocks train adapters only"
    if isinstance(adapter, LoraAdapter):
        return dict.fromkeys(adapter.modules, adapter.rank)
    return {module.path: _lokr_inner(module, linears[module.path]) for module in adapter.modules}


def _lokr_inner(module: AdaptedModule, linear: LinearShape) -> int:
    """X [c, D] · W2ᵀ [D, K] has c · K numbers, for in = c · D and out = a · K."""
    return (
        factorization(linear.in_features, module.factor)[0]
        * factorization(linear.out_features, module.factor)[1]
    )
