"""What LyCORIS does wrong without an error. These are reasons why LoKr is built here."""

import pytest
import torch
from lycoris.modules.lokr import LokrModule
from torch import nn

from trainer_core.config.plan.shapes import lycoris_loads
from trainer_core.precision.quanto import quantize_frozen


def lokr_on(base: nn.Linear, **options: object) -> LokrModule:
    """LyCORIS' own module, its tensors normal."""
    torch.manual_seed(7)
    module = LokrModule("x", base, factor=4, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return module


def base_of(n_in: int = 32, n_out: int = 48) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(n_in, n_out, bias=False).requires_grad_(False)


def delta(module: LokrModule, n_in: int = 32) -> torch.Tensor:
    """What it adds in training, as a weight [out, in]."""
    with torch.no_grad():
        columns: torch.Tensor = module.bypass_forward_diff(torch.eye(n_in))
    return columns.T


def merged(module: LokrModule, base: nn.Linear) -> torch.Tensor:
    """What a merge adds to the weight."""
    before = base.weight.detach().clone()
    with torch.no_grad():
        module.merge_to(1.0)
    return base.weight.detach() - before


def test_lycoris_merges_full_matrices_correctly() -> None:
    base = base_of()
    module = lokr_on(base, lora_dim=16384, full_matrix=True, bypass_mode=True)

    torch.testing.assert_close(merged(module, base), delta(module), atol=1e-5, rtol=1e-5)


def test_lycoris_merges_low_rank_with_alpha_over_rank_twice() -> None:
    """``get_weight`` has the scale in it, and ``get_diff_weight`` multiplies by it again."""
    base = base_of()
    module = lokr_on(base, lora_dim=2, alpha=0.5, bypass_mode=True)
    assert module.scale == pytest.approx(0.25)

    wrong = merged(module, base)

    torch.testing.assert_close(wrong, delta(module) * 0.25, atol=1e-5, rtol=1e-5)


def test_lycoris_merges_a_live_adapter_without_its_scalar() -> None:
    base = base_of()
    module = lokr_on(base, lora_dim=16384, full_matrix=True, use_scalar=True, bypass_mode=True)

    wrong = merged(module, base)

    assert abs(module.scalar.item() - 1) > 0.1
    torch.testing.assert_close(wrong * module.scalar, delta(module), atol=1e-5, rtol=1e-5)


def test_lycoris_merge_does_not_change_a_quantised_base() -> None:
    model = nn.Sequential(base_of())
    quantize_frozen(model, "int8-quanto")
    module = lokr_on(model[0], lora_dim=16384, full_matrix=True)
    x = torch.randn(3, 32)
    before = model(x)

    with torch.no_grad():
        module.merge_to(1.0)

    assert delta(module).norm() > 1
    assert torch.equal(model(x), before)


FACTORS = (-1, 1, 2, 3, 5, 7, 8, 12, 16, 17, 20, 24, 32, 36, 48, 64, 80, 96, 128, 160, 192, 512)
SHAPES = ((64, 64), (64, 256), (256, 64), (64, 384), (160, 96), (256, 2560), (216, 80), (192, 7))


@pytest.mark.parametrize("options", [{"full_matrix": True}, {}, {"decompose_both": True}])
def test_lycoris_loader_fails_exactly_where_lycoris_loads_is_false(
    options: dict[str, bool],
) -> None:
    """The loader guesses the factor from the shapes of w1 and w2, even for its own files."""
    found = {}
    for factor in FACTORS:
        for n_in, n_out in SHAPES:
            base = base_of(n_in, n_out)
            module = LokrModule("x", base, 1.0, 1, 1, factor=factor, **options)
            tensors = module.state_dict()
            names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")
            parts = [tensors.get(f"lokr_{name}") for name in names]
            found[factor, n_in, n_out] = loads(base, *parts, tensors["alpha"], None)

    assert found == {each: lycoris_loads(*each) for each in found}
    assert 0 < sum(found.values()) < len(found)


def loads(base: nn.Linear, *parts: torch.Tensor | None) -> bool:
    try:
        with torch.no_grad():
            LokrModule.make_module_from_state_dict("x", base, *parts)
    except (RuntimeError, AttributeError):
        return False
    return True
