"""The network that a run trains: diffusers' transformer, prepared once, and its forward.

``prepare`` makes every change before the first step. Afterwards nothing is patched, hooked or
replaced. Everything that varies between forwards is an argument.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from trainer_core.adapters.attach import Adapter, attach_adapter
from trainer_core.adapters.factors import NO_ADAPTER, Trained
from trainer_core.adapters.full import full_rank_parameters, stays_in_place
from trainer_core.config.plan import MatmulKind, Plan, Quantization
from trainer_core.errors import BaseModelError
from trainer_core.hidream.balance import replace_gates
from trainer_core.hidream.blocks import Blocks, NoteExperts
from trainer_core.hidream.forward import Padding, Prediction, predict
from trainer_core.hidream.fused.blocks import FusedBlocks
from trainer_core.hidream.host.weights import ALL_ON_DEVICE, HostWeights
from trainer_core.hidream.open_blocks import open_blocks
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.memory.card_plan import CardPlan
from trainer_core.optim.flat import FlatParameters
from trainer_core.precision.compute import Compute
from trainer_core.precision.linear8 import dtype8_of, hold_in_8bit
from trainer_core.precision.quanto import quantize_frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A transformer that is ready to be trained, on its device."""

    transformer: HiDreamImageTransformer2DModel
    blocks: Blocks
    """Compute the transformer's blocks, with gradients."""
    adapter: Adapter | None
    """The adapter on a frozen base; None for full rank."""
    trained: Mapping[str, nn.Parameter]
    """The trained parameters, by logical name."""
    flat: FlatParameters | None = None
    """The tensor that holds the values of ``trained``; None where each stays on its own, or
    DeepSpeed holds them."""
    compute: Compute
    host: HostWeights = ALL_ON_DEVICE
    """Frozen weights that the card has no room for."""
    has_balance: bool = False
    """Whether the experts' gates compute the load-balancing loss."""
    capture_refusal: str | None = None
    """Why a CUDA graph cannot capture a forward and backward pass; None: it can."""
    preparation: tuple[str, ...] = ()
    """The steps that prepared the base model, in order."""

    def velocity(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text: TextEmbeddings,
        padding: Padding = "exact",
        dropout_seed: torch.Tensor | None = None,
        *,
        note_experts: NoteExperts | None = None,
    ) -> Prediction:
        """Velocity and load-balancing loss; arguments and errors as in ``forward.predict``.

        ``dropout_seed``: of the dropout of all linears of an adapter, 0-dimensional, int64; not
        used in eval mode. With plain blocks it is not used at all: the linears draw from torch's
        global generator.
        ``note_experts``: as for ``forward.predict``.
        """
        factors = NO_ADAPTER
        seeded: AbstractContextManager[None] = nullcontext()
        if self.adapter is not None and isinstance(self.blocks, FusedBlocks):
            assert self.flat is not None
            trained = Trained(self.flat.stacks())
            seed = dropout_seed if self.transformer.training else None
            factors = self.adapter.factors(trained, self.compute.weights, seed)
            seeded = self.adapter.switch.seeded(seed)
        with self.compute.context(), self.host.forward(), seeded:
            return predict(
                self.transformer,
                self.blocks,
                noisy_BCHW,
                timesteps_B,
                text,
                padding=padding,
                adapter=factors,
                has_balance=self._computes_balance(),
                note_experts=note_experts,
            )

    def base_velocity(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text: TextEmbeddings,
        padding: Padding = "exact",
    ) -> torch.Tensor:
        """Velocity [B, C, H, W] of the base without the adapter, without gradients.

        Raises ValueError without an adapter, because full rank changes the base itself.
        """
        if self.adapter is None:
            raise ValueError(
                "prior preservation needs an adapter: full rank changes the base itself"
            )
        with torch.no_grad(), self.adapter.switch.off():
            return self.velocity(noisy_BCHW, timesteps_B, text, padding).velocity_BCHW

    def _computes_balance(self) -> bool:
        return self.has_balance and self.transformer.training and torch.is_grad_enabled()

    @property
    def trainable_modules(self) -> int:
        """Number of linear layers that are trained or adapted."""
        if self.adapter is not None:
            return self.adapter.num_modules
        return sum(isinstance(part, nn.Linear) for part in self.transformer.modules())


def prepare(
    transformer: HiDreamImageTransformer2DModel,
    plan: Plan,
    compute: Compute,
    *,
    matmul: MatmulKind = "no_change",
    preparation: tuple[str, ...] | None = None,
    card: CardPlan | None = None,
) -> Network:
    """Make a freshly loaded transformer ready to be trained, in this order:

    1. Quantise the base and move it to its device, unless ``load_base`` has. Quantising replaces
       linears, so it comes before the adapter: a quantised adapter would not be trained.
    2. Replace the experts' gates.
    3. Attach the adapter and freeze everything else. For full rank enable all gradients.
    4. Move the trained tensors into one flat tensor, unless DeepSpeed shards them, or they are
       all weights and each is updated on its own.
    5. Set train mode, leave to the host what the card has no room for, and build the blocks.

    Nothing else may change the transformer afterwards.

    Args:
        transformer: with weights.
        plan: of the run.
        compute: device and types.
        matmul: how the frozen base is multiplied.
        preparation: what ``load_base`` did; None: the transformer comes from elsewhere.
        card: as for ``open_blocks``.

    Raises:
        BaseModelError: the base model has no experts to balance, lacks a layer that the plan
            adapts, or cannot be trained.
    """
    identity = plan.identity
    if preparation is None:
        preparation = _placed(transformer, plan, compute.device, matmul)
    has_balance = identity.objective.balance_weight > 0
    if replace_gates(transformer, has_loss=has_balance) == 0 and has_balance:
        raise BaseModelError(
            "the base model has no experts to balance: turn hidream_use_load_balancing_loss off"
        )
    adapter, trained = _trained(transformer, plan)
    transformer.train()
    is_whole = plan.operation.zero_stage is None and not stays_in_place(plan)
    is_flat = adapter is not None or is_whole
    opened = open_blocks(transformer, plan, compute, matmul, card)
    return Network(
        transformer=transformer,
        blocks=opened.blocks,
        adapter=adapter,
        trained=trained,
        flat=FlatParameters(trained) if is_flat else None,
        compute=compute,
        host=opened.host,
        has_balance=has_balance,
        capture_refusal=opened.capture_refusal,
        preparation=(*preparation, *opened.preparation),
    )


def _placed(
    transformer: nn.Module, plan: Plan, device: torch.device, matmul: MatmulKind
) -> tuple[str, ...]:
    dtype8 = dtype8_of(matmul)
    if dtype8 is not None:
        count = hold_in_8bit(transformer.requires_grad_(False), device, dtype8)
        return f"moved to {device.type}", f"{count} linears held in 8 bits"
    precision, via = plan.identity.precision, plan.operation.quantize_via
    return place_base(transformer, precision.base, via, device)


def place_base(
    transformer: nn.Module,
    scheme: Quantization,
    via: Literal["cpu", "accelerator"],
    device: torch.device,
) -> tuple[str, ...]:
    """Move the base to ``device``, and quantise it there, or before the move to save memory.

    Returns:
        The steps taken, in order, such as ``quantized 106 linears on cpu``, ``moved to cuda``.
    """
    done = []

    def quantize() -> None:
        paths = quantize_frozen(transformer, scheme)
        if paths:
            done.append(f"quantized {len(paths)} linears on {_device_of(transformer)}")

    if via == "cpu":
        quantize()
    transformer.to(device)
    done.append(f"moved to {device.type}")
    if via == "accelerator":
        quantize()
    return tuple(done)


def _trained(
    transformer: HiDreamImageTransformer2DModel, plan: Plan
) -> tuple[Adapter | None, Mapping[str, nn.Parameter]]:
    identity = plan.identity
    if identity.adapter is not None:
        adapter = attach_adapter(transformer, identity.adapter, identity.seed)
        return adapter, adapter.parameters()
    if plan.operation.zero_stage is None:
        is_bf16 = identity.precision.trained == "bf16"
        return None, full_rank_parameters(transformer, torch.bfloat16 if is_bf16 else torch.float32)
    # The weights may be bf16, because DeepSpeed keeps fp32 copies.
    transformer.requires_grad_(True)
    return None, dict(transformer.named_parameters())


def _device_of(module: nn.Module) -> str:
    return next(module.parameters()).device.type
