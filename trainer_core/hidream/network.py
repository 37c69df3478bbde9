"""The network that a run trains: diffusers' transformer, changed once, and its forward.

``prepare`` makes every change before the first step. Nothing is patched, hooked or replaced after
it. What differs from one forward to the next is an argument of that forward.
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
    """What is trained beside a frozen base; None where the base itself is trained."""
    trained: Mapping[str, nn.Parameter]
    """What is trained, by logical name."""
    compute: Compute
    gradient_checkpointing_interval: int | None = None
    """Block i is computed again in the backward pass where i is a multiple of it; None: none is."""
    preparation: tuple[str, ...] = ()
    """What was done to the base model, in order."""

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
        """Velocity [B, C, H, W] that the base predicts without the adapter, without gradients.

        Raises ValueError where there is no adapter: full rank has no base left.
        """
        if self.adapter is None:
            raise ValueError("prior preservation needs an adapter: full rank has no base left")
        with torch.no_grad(), self.adapter.switch.off():
            return self.velocity(noisy_BCHW, timesteps_B, text, padding).velocity_BCHW

    @property
    def trainable_modules(self) -> int:
        """Linear layers that are trained or adapted."""
        if self.adapter is not None:
            return self.adapter.num_modules
        return sum(isinstance(part, nn.Linear) for part in self.transformer.modules())


def prepare(transformer: HiDreamImageTransformer2DModel, plan: Plan, compute: Compute) -> Network:
    """Make a freshly loaded transformer ready to be trained, in this order:

    1. Quantise the base and move it to its device. Quantising replaces linears, so it comes before
       the adapter: a quantised adapter would not be trained.
    2. Replace the experts' gates.
    3. Attach the adapter and freeze all else; or, for full rank, train every weight.
    4. Set train mode and gradient checkpointing.

    The transformer belongs to the network from here on. Raises BaseModelError where the base model
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
    """Move the base to ``device``, quantised there or, to spare its memory, before it gets there.

    Returns:
        What was done, in order, such as ``quantized 106 linears on cpu``, ``moved to cuda``.
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
    # DeepSpeed keeps fp32 copies itself: the weights here may be bf16.
    transformer.requires_grad_(True)
    return None, dict(transformer.named_parameters())


def _device_of(module: nn.Module) -> str:
    return next(module.parameters()).device.type
