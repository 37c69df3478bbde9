"""While pictures are made, a layer computes as with its exported file, wherever its tensors lie."""

import pytest
import torch
from torch import nn

from trainer_core.adapters.lokr import LokrLinear
from trainer_core.adapters.switch import AdapterSwitch
from trainer_core.export.adapter_tensors import ModuleTensors
from trainer_core.painting.attach import attach_stored

SHAPES = {
    "whole": {"w1": (1, 1), "w2": (64, 64)},
    "halves": {"w1_a": (2, 3), "w1_b": (3, 2), "w2_a": (32, 3), "w2_b": (3, 32)},
}
SCALE, MULTIPLIER, SCALAR, STRENGTH = 5 / 3, 0.9, 0.37, 1.3


def moved(tensor: torch.Tensor, elements: int) -> torch.Tensor:
    """The same values in another place: one that starts so many elements later."""
    place = torch.empty(tensor.numel() + elements)[elements:].view(tensor.shape)
    return place.copy_(tensor)


@pytest.mark.parametrize("elements", [0, 1, 3])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_lokr_gives_the_bits_of_its_file(kind: str, elements: int) -> None:
    draw = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in SHAPES[kind].items()}
    base = nn.Linear(64, 64)
    switch = AdapterSwitch()
    own = {name: moved(tensor, elements) for name, tensor in tensors.items()}
    own["scalar"] = torch.tensor([SCALAR])
    layer = LokrLinear(base, own, scale=SCALE, multiplier=MULTIPLIER, switch=switch)

    factor = MULTIPLIER * SCALE * float(own["scalar"])
    file = {
        f"lokr_{name}": moved(
            (tensor.double() * factor).float() if name in ("w1", "w1_a") else tensor, 5
        )
        for name, tensor in tensors.items()
    }
    model = nn.Sequential(base)
    attach_stored(model, {"0": ModuleTensors(matrices=file, scale=1.0)}, STRENGTH)

    for rows in (1, 2, 7):
        x = torch.randn(rows, 64, generator=draw)
        with torch.no_grad(), switch.exported(STRENGTH):
            found = layer(x)
        with torch.no_grad():
            assert torch.equal(found, model(x))
            assert not torch.equal(found, base(x))
            assert torch.allclose(layer(x) - base(x), (found - base(x)) / STRENGTH, atol=1e-4)
