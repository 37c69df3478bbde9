"""Trained tensors in one flat tensor: the same objects, values and gradients."""

import pytest
import torch
from torch import nn

from trainer_core.optim.flat import ALIGNMENT, FlatParameters
from trainer_core.optim.separate import SeparateParameters

SHAPES = {
    "a.to_q.w1": (4, 4),
    "a.to_q.w2": (5, 3),
    "a.to_q.scalar": (1,),
    "a.to_k.w1": (4, 4),
    "a.to_k.w2": (3, 5),
    "b.w1": (4, 4),
    "b.w2": (5, 3),
}


def fresh(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(3)
    return {
        name: nn.Parameter(torch.randn(shape, generator=draw).to(dtype))
        for name, shape in SHAPES.items()
    }


def test_the_parameters_keep_their_values_and_share_the_flat_tensor() -> None:
    parameters, expected = fresh(), fresh()

    flat = FlatParameters(parameters)

    assert all(torch.equal(parameters[name], value) for name, value in expected.items())
    assert flat.named == parameters
    with torch.no_grad():
        flat.values.mul_(2)
        parameters["b.w1"].add_(1)
    assert torch.equal(parameters["a.to_k.w2"], 2 * expected["a.to_k.w2"])
    assert torch.equal(flat.by_name([flat.values])["b.w1"], 2 * expected["b.w1"] + 1)


def test_the_same_kind_and_shape_is_one_aligned_stack_in_order() -> None:
    parameters = fresh()
    flat = FlatParameters(parameters)

    stacks = flat.stacks()

    assert [stack.names for stack in stacks] == [
        ("a.to_q.w1", "a.to_k.w1", "b.w1"),
        ("a.to_q.w2", "b.w2"),
        ("a.to_q.scalar",),
        ("a.to_k.w2",),
    ]
    for names, values in stacks:
        assert torch.equal(values, torch.stack([parameters[name] for name in names]))
        assert values.storage_offset() % ALIGNMENT == 0
    assert flat.values.numel() == 4 * ALIGNMENT


def test_a_backward_pass_through_either_adds_to_the_same_gradient() -> None:
    parameters = fresh()
    flat = FlatParameters(parameters)
    held = {name: each.grad for name, each in parameters.items()}
    plain = fresh()
    for loss in (plain, plain):
        sum(each.square().sum() for each in loss.values()).backward()

    sum(each.square().sum() for each in parameters.values()).backward()
    sum(stack.values.square().sum() for stack in flat.stacks()).backward()

    for name, parameter in parameters.items():
        assert parameter.grad is held[name]
        assert torch.equal(parameter.grad, plain[name].grad)
    assert flat.values.grad is not None
    used = flat.by_name([flat.values.grad])
    assert flat.values.grad.count_nonzero() == sum(each.numel() for each in used.values())


def test_cleared_gradients_are_zero_and_stay_in_place() -> None:
    parameters = fresh()
    flat = FlatParameters(parameters)
    sum(each.sum() for each in parameters.values()).backward()
    address = flat.values.grad.data_ptr()

    flat.clear_gradients()

    assert all(not each.grad.any() for each in parameters.values())
    assert flat.values.grad.data_ptr() == address


def test_separate_parameters_are_their_own_leaves() -> None:
    parameters = fresh()
    separate = SeparateParameters(parameters)
    sum(each.sum() for each in parameters.values()).backward()

    found = separate.by_name([leaf * 2 for leaf in separate.leaves])

    assert all(torch.equal(found[name], 2 * each) for name, each in parameters.items())
    separate.clear_gradients()
    assert all(each.grad is None for each in parameters.values())


def test_one_flat_tensor_has_one_type() -> None:
    mixed = fresh() | {"c": nn.Parameter(torch.zeros(3, dtype=torch.float64))}

    with pytest.raises(ValueError, match="one type and device, not 2"):
        FlatParameters(mixed)
    with pytest.raises(ValueError, match="not 0"):
        FlatParameters({})
    assert FlatParameters(fresh(torch.float64)).values.dtype is torch.float64
