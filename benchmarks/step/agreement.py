"""How far a gradient is from another of the same weights and inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from benchmarks.step.measure import Gradient

COUNTS_FROM: Final = 1e-3
"""A tensor counts by itself where its norm is above this share of the whole gradient's norm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorAgreement:
    """One trained tensor."""

    name: str
    cosine: float
    norm: float
    """Of the reference, relative to the whole reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A gradient against a reference."""

    cosine: float
    """Of all tensors as one vector."""
    relative: float
    """Norm of the difference over the norm of the reference."""
    loss_relative: float
    tensors: tuple[TensorAgreement, ...]
    """The worst first."""

    def share_above(self, cosine: float) -> float:
        """Share of the tensors that count whose cosine is at least this."""
        counted = [each.cosine for each in self.tensors if each.norm > COUNTS_FROM]
        return sum(each >= cosine for each in counted) / len(counted)


def agreement(found: Gradient, reference: Gradient) -> Agreement:
    """Compare two gradients; raises ValueError where they are of different tensors."""
    if found.tensors.keys() != reference.tensors.keys():
        differ = sorted(found.tensors.keys() ^ reference.tensors.keys())
        raise ValueError(f"{len(differ)} tensors are trained by one side only: {differ[:2]}")
    products = {
        name: _products(found.tensors[name], right) for name, right in reference.tensors.items()
    }
    dot, own, right = (sum(column) for column in zip(*products.values(), strict=True))
    difference = max(own - 2 * dot + right, 0.0)
    tensors = [
        TensorAgreement(name=name, cosine=_cosine(*each), norm=(each[2] / right) ** 0.5)
        for name, each in products.items()
    ]
    return Agreement(
        cosine=_cosine(dot, own, right),
        relative=(difference / right) ** 0.5,
        loss_relative=abs(found.loss - reference.loss) / abs(reference.loss),
        tensors=tuple(sorted(tensors, key=lambda each: each.cosine)),
    )


def relative_error(found: torch.Tensor, right: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``right``."""
    return float((found.double() - right.double()).norm() / right.double().norm())


def worst(agreed: Agreement, count: int) -> list[Mapping[str, object]]:
    """The tensors that agree least, with their names and norms."""
    return [
        {"name": each.name, "cosine": round(each.cosine, 5), "norm": float(f"{each.norm:.2e}")}
        for each in agreed.tensors[:count]
    ]


def _products(found: torch.Tensor, right: torch.Tensor) -> tuple[float, float, float]:
    """Dot product and both squared norms, in fp64."""
    a, b = found.flatten().double(), right.flatten().double()
    return float(a @ b), float(a @ a), float(b @ b)


def _cosine(dot: float, own: float, right: float) -> float:
    """0 where one of the vectors is 0."""
    return dot / (own * right) ** 0.5 if own and right else 0.0
