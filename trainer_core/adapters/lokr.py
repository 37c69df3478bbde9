"""LoKr: each adapted linear adds the Kronecker product of two small trained matrices.

The delta of a weight is multiplier · scalar · scale · (w1 ⊗ w2). It is applied to activations and
never materialised. With in = c · D and out = a · K, w1 is [a, c] and w2 is [K, D]. Either may be a
product of two matrices over a rank r. Trained tensors are fp32, whatever type the base has.

Source: LyCORIS 4.1.3, module `lokr` for linear layers; tests compare the two.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from trainer_core.adapters.factors import (
    AdapterFactors,
    Trained,
    by_path,
    grouped_by,
    paired,
)
from trainer_core.adapters.places import device_of, linear_at, parent_of
from trainer_core.adapters.start import kaiming, start_generator
from trainer_core.adapters.switch import AdapterSwitch
from trainer_core.config.plan import AdaptedModule, LokrAdapter
from trainer_core.config.plan.shapes import lokr_scale, lokr_shapes
from trainer_core.precision.linear8 import Linear8


class LokrLinear(nn.Module):
    """A frozen linear layer with its delta.

    The base may be any module that maps [..., in] to [..., out], such as a quantised linear layer.
    """

    w1: nn.Parameter | None
    """[a, c]; None where it is w1_a · w1_b."""
    w1_a: nn.Parameter | None
    w1_b: nn.Parameter | None
    w2: nn.Parameter | None
    """[K, D]; None where it is w2_a · w2_b."""
    w2_a: nn.Parameter | None
    w2_b: nn.Parameter | None
    constant: torch.Tensor
    """[1]: scale · multiplier."""
    scalar: torch.Tensor
    """[1]; a parameter where it is trained, otherwise the constant 1."""

    def __init__(
        self,
        base: nn.Module,
        tensors: Mapping[str, torch.Tensor],
        *,
        scale: float,
        multiplier: float,
        switch: AdapterSwitch,
    ) -> None:
        """
        Args:
            base: the adapted linear layer.
            tensors: start values of the trained tensors, by name; see ``shapes.lokr_shapes``.
            scale: constant factor of the product; see ``shapes.lokr_scale``.
            multiplier: strength of the adapter; at 0 only the base is computed.
            switch: read in each forward; whether the delta is added.
        """
        super().__init__()
        self.base = base
        for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b"):
            value = tensors.get(name)
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        if "scalar" in tensors:
            self.scalar = nn.Parameter(tensors["scalar"])
        else:
            one = torch.ones(1, device=next(iter(tensors.values())).device)
            self.register_buffer("scalar", one, persistent=False)
        self.scale: Final = scale
        self.multiplier = multiplier
        constant = torch.full((1,), scale * multiplier, device=self.scalar.device)
        self.register_buffer("constant", constant, persistent=False)
        self._switch: Final = switch

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """[..., in] → [..., out] in the type of the base's output."""
        output: torch.Tensor = self.base(input_)
        if not self._switch.is_on or self.multiplier == 0.0:
            return output
        return output + self.delta(input_).to(output.dtype)

    def delta(self, input_: torch.Tensor) -> torch.Tensor:
        """The output that the adapter adds: W1 · X · W2ᵀ for each token's X [c, D].

        The scalar factors are multiplied into w1, the smallest tensor.
        """
        w1_ac = self._scaled_w1().to(input_.dtype)
        columns = w1_ac.shape[1]
        x_cD = input_.reshape(*input_.shape[:-1], columns, input_.shape[-1] // columns)
        return torch.matmul(w1_ac, self._times_w2(x_cD)).flatten(-2)

    def _scaled_w1(self) -> torch.Tensor:
        """w1 times all scalar factors, [a, c], fp32."""
        if not self._switch.is_exported:
            return self.full_w1() * (self.scalar * (self.scale * self.multiplier))
        # As in ``lycoris_layout``: in fp64, into w1 or its first factor.
        factor = self.scalar.double() * (self.multiplier * self.scale)
        w1, w1_a = (
            None if each is None else (each.double() * factor).float()
            for each in (self.w1, self.w1_a)
        )
        w1_b = None if self.w1_b is None else self._switch.placed(self.w1_b)
        return _full(w1, w1_a, w1_b) * self._switch.strength

    def shapes(self, name: Literal["w1", "w2"]) -> tuple[Any, ...]:
        """The shapes of w1 or w2, or of its two factors, and whether the scalar is trained."""
        return (
            isinstance(self.scalar, nn.Parameter),
            *(
                (each, parameter.shape)
                for each, parameter in self.named_parameters(recurse=False)
                if each.startswith(name)
            ),
        )

    def full_w1(self) -> torch.Tensor:
        """[a, c], fp32 also under autocast."""
        return _full(self.w1, self.w1_a, self.w1_b)

    def _times_w2(self, x_cD: torch.Tensor) -> torch.Tensor:
        """X · W2ᵀ."""
        if self.w2 is not None:
            return functional.linear(x_cD, self._switch.placed(self.w2).to(x_cD.dtype))
        assert self.w2_a is not None
        assert self.w2_b is not None
        x_cr = functional.linear(x_cD, self._switch.placed(self.w2_b).to(x_cD.dtype))
        return functional.linear(x_cr, self._switch.placed(self.w2_a).to(x_cr.dtype))


def _full(
    whole: torch.Tensor | None, left: torch.Tensor | None, right: torch.Tensor | None
) -> torch.Tensor:
    if whole is not None:
        return whole
    assert left is not None
    assert right is not None
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


class LokrNetwork:
    """All adapted linear layers of one model, by path."""

    has_dropout: Final = False

    def __init__(self, linears: Mapping[str, LokrLinear], switch: AdapterSwitch) -> None:
        self.linears: Final = MappingProxyType(dict(linears))
        self.num_modules: Final = len(self.linears)
        self.switch: Final = switch
        self._alike_w1: Final = grouped_by(
            {path: linear.shapes("w1") for path, linear in self.linears.items()}
        )
        self._alike_w2: Final = grouped_by(
            {path: linear.shapes("w2") for path, linear in self.linears.items()}
        )
        self._constants: Final = tuple(
            torch.stack([self.linears[path].constant for path in paths]).unsqueeze(-1)
            for paths in self._alike_w1
        )

    def factors(
        self,
        trained: Trained,
        dtype: torch.dtype,
        seed: torch.Tensor | None = None,  # noqa: ARG002 - LoKr has no dropout
    ) -> AdapterFactors:
        """As ``Adapter.factors``."""
        firsts = []
        for paths, constant_n11 in zip(self._alike_w1, self._constants, strict=True):
            w1_nac = self._full("w1", paths, trained) * constant_n11
            if self.switch.strength != 1.0:
                w1_nac = w1_nac * self.switch.strength
            if isinstance(self.linears[paths[0]].scalar, nn.Parameter):
                w1_nac = w1_nac * trained.stacked(_names(paths, "scalar")).unsqueeze(-1)
            firsts.append((paths, w1_nac))
        seconds = [(paths, self._full("w2", paths, trained)) for paths in self._alike_w2]
        values, links = paired(by_path(firsts, dtype), by_path(seconds, dtype))
        return AdapterFactors(values=values, links=links, is_on=self.switch.is_on)

    def _full(
        self, name: Literal["w1", "w2"], paths: tuple[str, ...], trained: Trained
    ) -> torch.Tensor:
        """w1 or w2 of some linears, stacked; a product where it is decomposed."""
        if getattr(self.linears[paths[0]], name) is not None:
            return trained.stacked(_names(paths, name))
        left, right = (trained.stacked(_names(paths, f"{name}_{side}")) for side in ("a", "b"))
        return torch.bmm(left, right)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by logical name: ``<path>.<name>``, as in ``shapes.lokr_shapes``.

        The path is that in diffusers' transformer, independent of wrappers and sharding.
        """
        return {
            f"{path}.{name}": parameter
            for path, linear in self.linears.items()
            for name, parameter in linear.named_parameters(recurse=False)
        }


def _names(paths: Iterable[str], name: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for path in paths)


def attach_lokr(model: nn.Module, adapter: LokrAdapter, seed: int) -> LokrNetwork:
    """Replace every linear layer that the plan names with a LokrLinear; freeze everything else.

    Quantise first. Quantising later would replace the adapted layers without an error.

    Args:
        model: the transformer, on its device.
        adapter: with ``modules`` resolved to paths.
        seed: start values depend only on it and on the path.

    Raises:
        BaseModelError: a path is not a linear layer of this model.
    """
    model.requires_grad_(False)
    device = device_of(model)
    linears = {}
    switch = AdapterSwitch()
    for module in adapter.modules:
        base = linear_at(model, module.path)
        linear = _adapted(base, module, adapter, switch, seed=seed, device=device)
        linears[module.path] = linear.train(base.training)
        parent, name = parent_of(model, module.path)
        parent.register_module(name, linear)
    return LokrNetwork(linears, switch)


def _adapted(
    base: nn.Linear | Linear8,
    module: AdaptedModule,
    adapter: LokrAdapter,
    switch: AdapterSwitch,
    *,
    seed: int,
    device: torch.device,
) -> LokrLinear:
    shapes = lokr_shapes(module, base.in_features, base.out_features)
    if adapter.init_lokr_norm is None:
        start = _start_values(module, shapes, seed)
    else:
        start = _start_near(base, module, shapes, adapter.init_lokr_norm, seed)
    tensors = {name: value.to(device) for name, value in start.items()}
    return LokrLinear(
        base,
        tensors,
        scale=lokr_scale(module, shapes),
        multiplier=adapter.multiplier,
        switch=switch,
    )


def _start_values(
    module: AdaptedModule, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, torch.Tensor]:
    """LyCORIS's start values: Kaiming, with 0 for the scalar, or without one for w2 or w2_b."""
    at_zero = "scalar" if module.use_scalar else "w2" if "w2" in shapes else "w2_b"
    return {
        name: torch.zeros(shape)
        if name == at_zero
        else kaiming(shape, start_generator(seed, f"lokr {module.path}.{name}"))
        for name, shape in shapes.items()
    }


def _start_near(
    base: nn.Linear | Linear8,
    module: AdaptedModule,
    shapes: Mapping[str, tuple[int, ...]],
    norm: float,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Start values for ``init_lokr_norm``.

    w1 is 1 everywhere. w2 is normal, with ``norm`` times the mean and standard deviation of the
    base weight. A trained scalar is 0.
    """
    weight = base.weight.dequantize() if hasattr(base.weight, "dequantize") else base.weight
    std, mean = torch.std_mean(weight.detach().float())
    generator = start_generator(seed, f"lokr {module.path}.w2")
    noise = torch.randn(shapes["w2"], generator=generator)
    values = {"w1": torch.ones(shapes["w1"]), "w2": (noise * std.cpu() + mean.cpu()) * norm}
    if "scalar" in shapes:
        values["scalar"] = torch.zeros(shapes["scalar"])
    return values
