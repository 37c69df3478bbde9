"""LoKr: each adapted linear adds the Kronecker product of two small trained matrices.

delta W = multiplier · scalar · (w1 ⊗ w2), computed on activations and never built. With in = c · D
and out = a · K, w1 is [a, c] and w2 is [K, D]. Trained matrices stay fp32 whatever the base is.

Source: LyCORIS 4.1.3, module `lokr` with full matrices; tests compare the two.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from trainer_core.config.plan import LokrAdapter
from trainer_core.config.shapes import LokrShape, lokr_shape
from trainer_core.data.sampler import draw_seed
from trainer_core.errors import BaseModelError


class LokrLinear(nn.Module):
    """A frozen linear and its delta.

    The base is a port: any module that maps [..., in] to [..., out] (plain, quantised).
    """

    def __init__(
        self, base: nn.Module, w1_ac: torch.Tensor, w2_KD: torch.Tensor, *, train_scalar: bool
    ) -> None:
        """``train_scalar``: start at 0 and learn it; otherwise it is 1 for good."""
        super().__init__()
        self.base = base
        self.w1 = nn.Parameter(w1_ac)
        self.w2 = nn.Parameter(w2_KD)
        # Of shape (1,), not (): sharded optimizers cannot view a 0-dimensional tensor as bytes.
        scalar = torch.full((1,), 0.0 if train_scalar else 1.0, device=w1_ac.device)
        if train_scalar:
            self.scalar = nn.Parameter(scalar)
        else:
            self.register_buffer("scalar", scalar, persistent=False)
        self.multiplier = 1.0

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """[..., in] → [..., out] in the type of the base's answer."""
        output: torch.Tensor = self.base(input_)
        return output + self.delta(input_).to(output.dtype)

    def delta(self, input_: torch.Tensor) -> torch.Tensor:
        """What the adapter adds: W1 · X · W2ᵀ for each token's X [c, D].

        Both small factors (scalar, multiplier) go into w1 in fp32: it is the smallest tensor, and
        the exported file holds the same product.
        """
        w1_ac = (self.w1 * (self.scalar * self.multiplier)).to(input_.dtype)
        w2_KD = self.w2.to(input_.dtype)
        x_cD = input_.reshape(*input_.shape[:-1], w1_ac.shape[1], w2_KD.shape[1])
        return torch.matmul(w1_ac, functional.linear(x_cD, w2_KD)).flatten(-2)


class LokrNetwork:
    """All adapted linears of one model, by their paths in it."""

    def __init__(self, linears: Mapping[str, LokrLinear]) -> None:
        self.linears: Final = MappingProxyType(dict(linears))
        self.num_modules = len(self.linears)
        self.has_dropout = False

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by logical path: ``<path>.w1``, ``<path>.w2``, ``<path>.scalar``.

        The path is the one in diffusers' transformer; it knows no wrapper and no sharding.
        """
        return {
            f"{path}.{name}": parameter
            for path, linear in self.linears.items()
            for name, parameter in linear.named_parameters(recurse=False)
        }

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """See ``attach.Adapter``."""
        before = {path: linear.multiplier for path, linear in self.linears.items()}
        self.set_multiplier(0.0)
        try:
            yield
        finally:
            for path, multiplier in before.items():
                self.linears[path].multiplier = multiplier

    def set_multiplier(self, multiplier: float) -> None:
        """Strength of the adapter in every module; at 0 the model is its base."""
        for linear in self.linears.values():
            linear.multiplier = multiplier


def attach_lokr(model: nn.Module, adapter: LokrAdapter, seed: int) -> LokrNetwork:
    """Put a LokrLinear in the place of every linear that the plan names; freeze all else.

    Quantisation comes before: it would replace the wrapped linears, and silently drop the adapter.

    Args:
        model: the transformer, on its device.
        adapter: with ``modules`` resolved to paths.
        seed: start values depend on it and on the path only, not on order, device or count.

    Raises:
        BaseModelError: a path is not a linear layer of this model.
    """
    model.requires_grad_(False)
    linears = {}
    for module in adapter.modules:
        parent_path, _, name = module.path.rpartition(".")
        try:
            parent = model.get_submodule(parent_path)
            base = parent.get_submodule(name)
        except AttributeError as error:
            raise BaseModelError(f"the base model has no module {module.path}") from error
        linear = _adapted(base, module.path, adapter, module.factor, seed)
        parent.register_module(name, linear)
        linears[module.path] = linear
    network = LokrNetwork(linears)
    network.set_multiplier(adapter.multiplier)
    return network


def _adapted(
    base: nn.Module, path: str, adapter: LokrAdapter, factor: int, seed: int
) -> LokrLinear:
    if not isinstance(base, nn.Linear):  # quanto's QLinear is one
        raise BaseModelError(f"{path} is a {type(base).__name__}, not a linear layer")
    shape = lokr_shape(base.in_features, base.out_features, factor)
    w1, w2 = _start_values(base, path, adapter, shape, seed)
    device = base.weight.device
    linear = LokrLinear(base, w1.to(device), w2.to(device), train_scalar=adapter.use_scalar)
    return linear.train(base.training)


def _start_values(
    base: nn.Linear, path: str, adapter: LokrAdapter, shape: LokrShape, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As LyCORIS starts: Kaiming, with either w2 or the trained scalar at 0.

    With ``init_lokr_norm`` s: w1 all ones and w2 normal with s times the mean and the standard
    deviation of the base weight.
    """
    if adapter.init_lokr_norm is not None:
        weight = base.weight.dequantize() if hasattr(base.weight, "dequantize") else base.weight
        weight = weight.detach().float()
        noise = torch.randn(shape.w2, generator=_generator(seed, f"lokr {path}.w2"))
        matched = noise * weight.std().cpu() + weight.mean().cpu()
        return torch.ones(shape.w1), matched * adapter.init_lokr_norm
    w1 = _kaiming(shape.w1, _generator(seed, f"lokr {path}.w1"))
    if not adapter.use_scalar:
        return w1, torch.zeros(shape.w2)
    return w1, _kaiming(shape.w2, _generator(seed, f"lokr {path}.w2"))


def _kaiming(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """``kaiming_uniform_(a=√5)``, that is uniform in ±1/√columns."""
    bound: float = shape[1] ** -0.5
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(draw_seed(seed, purpose, 0, 0))
