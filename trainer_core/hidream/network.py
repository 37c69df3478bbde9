"""The network that a run trains: diffusers' transformer, prepared once, and its forward.

``prepare`` makes every change before the first step. Afterwards nothing is patched, hooked or
replaced. Everything that varies between forwards is an argument.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from trainer_core.adapters.attach import Adapter, attach_adapter
from trainer_core.adapters.full import full_rank_parameters
from trainer_core.config.plan import Plan, Quantization
from trainer_core.errors import BaseModelError
from trainer_core.hidream.balance import replace_gates
from trainer_core.hidream.forward import Padding, Prediction, predict
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute
from trainer_core.precision.quanto import quantize_frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A transformer that is ready to be trained, on its device."""

    transformer: HiDreamImageTransformer2DModel
    adapter: Adapter | None
    """The adapter on a frozen base; None for full rank."""
    trained: Mapping[str, nn.Parameter]
    """The trained parameters, by logical name."""
    compute: Compute
    gradient_checkpointing_interval: int | None = None
    """Block i is recomputed in the backward pass if i is a multiple of it; None: no block is."""
    preparation: tuple[str, ...] = ()
    """The steps that prepared the base model, in order."""

    def velocity(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text: TextEmbeddings,
        padding: Padding = "exact",
    ) -> Prediction:
        """Velocity and load-balancing loss; arguments and errors as in ``forward.predict``."""
        with self.compute.context():
            return predict(
                self.transformer,
                noisy_BCHW,
                timesteps_B,
                text,
                padding=padding,
                gradient_checkpointing_interval=self.gradient_checkpointing_interval,
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

    @property
    def trainable_modules(self) -> int:
        """Number of linear layers that are trained or adapted."""
        if self.adapter is not None:
            return self.adapter.num_modules
        return sum(isinstance(part, nn.Linear) for part in self.transformer.modules())


def prepare(transformer: HiDreamImageTransformer2DModel, plan: Plan, compute: Compute) -> Network:
    """Make a freshly loaded transformer ready to be trained, in this order:

    1. Quantise the base and move it to its device. Quantising replaces linears, so it comes before
       the adapter: a quantised adapter would not be trained.
    2. Replace the experts' gates.
    3. Attach the adapter and freeze everything else. For full rank enable all gradients.
    4. Set train mode and gradient checkpointing.

    Nothing else may change the transformer afterwards. Raises BaseModelError where the base model
    has no experts to balance, lacks a layer that the plan adapts, or cannot be trained.
    """
    identity, operation = plan.identity, plan.operation
    preparation = place_base(
        transformer, identity.precision.base, operation.quantize_via, compute.device
    )
    has_balance = identity.objective.balance_weight > 0
    if replace_gates(transformer, has_loss=has_balance) == 0 and has_balance:
        raise BaseModelError(
            "the base model has no experts to balance: turn hidream_use_load_balancing_loss off"
        )
    adapter, trained = _trained(transformer, plan)
    transformer.train()
    interval = operation.gradient_checkpointing_interval
    return Network(
        transformer=transformer,
        adapter=adapter,
        trained=trained,
        compute=compute,
        gradient_checkpointing_interval=interval if operation.gradient_checkpointing else None,
        preparation=preparation,
    )


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
        return None, full_rank_parameters(transformer)
    # The weights may be bf16, because DeepSpeed keeps fp32 copies.
    transformer.requires_grad_(True)
    return None, dict(transformer.named_parameters())


def _device_of(module: nn.Module) -> str:
    return next(module.parameters()).device.type
