"""The memory of a plan, counted without torch, beside what torch and the optimizers allocate."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, get_args

import pytest
import torch
from bitsandbytes.optim import PagedLion8bit
from diffusers import HiDreamImagePipeline
from optimi import AdamW, Lion
from optimum.quanto import QTensor, freeze, qint8, quantize
from prodigyopt import Prodigy
from torch import nn

from tests.unit.config_examples import SMALL_CONFIG, SMALL_LYCORIS, base_model
from trainer_core.adapters.attach import attach_adapter
from trainer_core.base_models.known import KNOWN_MODELS, PartConfigs
from trainer_core.config.plan import OptimizerName, Plan, Quantization
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.hidream.testing.tiny import build_pipeline
from trainer_core.memory.optimizer_state import STATE_BYTES
from trainer_core.memory.report import Memory, plan_memory
from trainer_core.memory.trained import trained_parameters

NOTHING = (None, None, None, None)
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "optimi-lion": lambda trained: Lion(trained, lr=1e-3, kahan_sum=True),
    "optimi-adamw": lambda trained: AdamW(trained, lr=1e-3, kahan_sum=True),
    "torch-adamw": lambda trained: torch.optim.AdamW(trained, lr=1e-3),
    "bnb-lion8bit-paged": lambda trained: PagedLion8bit(trained, lr=1e-3),
    "prodigy": lambda trained: Prodigy(trained, lr=1.0),
}


@pytest.fixture(scope="module")
def pipeline() -> HiDreamImagePipeline:
    return build_pipeline()


def tiny_plan(*, use_scalar: bool = False, **options: Any) -> Plan:
    """A plan for the test model in fp32 on a CPU."""
    base = base_model("hidream-tiny", dict(KNOWN_MODELS["hidream-tiny"].transformer))
    fp32_on_cpu = {"mixed_precision": "no", "device": "cpu", "learning_rate": 1.0}
    return import_run(
        config={**SMALL_CONFIG, **fp32_on_cpu, **options},
        lycoris_config={**SMALL_LYCORIS, "use_scalar": use_scalar},
        data_backends=[{"id": "cats", "caption_strategy": "filename"}],
        prompt_library=None,
        base_models={"hidream-tiny": base},
        source="http",
    ).plan


def memory_of(plan: Plan) -> Memory:
    parts = PartConfigs(
        transformer=KNOWN_MODELS["hidream-tiny"].transformer, text_encoders=NOTHING, vae=None
    )
    return plan_memory(plan, parts, largest_image_px=256 * 256)


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of every storage, each once: some optimizers share one between parameters."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return tensor_bytes(
        value
        for fields in optimizer.state.values()
        for value in fields.values()
        if isinstance(value, torch.Tensor)
    )


def test_a_quantised_base_is_counted_to_the_byte(pipeline: HiDreamImagePipeline) -> None:
    model = deepcopy(pipeline.transformer)
    quantize(model, weights=qint8)
    freeze(model)

    weights, scales = 0, 0
    for tensor in (*model.parameters(), *model.buffers()):
        if isinstance(tensor, QTensor):
            weights += tensor._data.numel() * tensor._data.element_size()
            scales += tensor._scale.numel() * tensor._scale.element_size()
        elif tensor.ndim == 0:
            scales += tensor.element_size()
        else:
            weights += tensor.numel() * tensor.element_size()
    memory = memory_of(tiny_plan(base_model_precision="int8-quanto"))

    assert (memory.base_weights_bytes, memory.base_scales_bytes) == (weights, scales)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_of_all_weights_is_counted_to_the_byte(
    pipeline: HiDreamImagePipeline, name: str
) -> None:
    parameters = [nn.Parameter(p + 0.1) for p in pipeline.transformer.parameters()]
    optimizer = OPTIMIZERS[name](parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

    memory = memory_of(tiny_plan(model_type="full", lora_type=None, optimizer=name))

    assert memory.optimizer_state_bytes == state_bytes(optimizer)
    assert memory.gradients_bytes == memory.base_weights_bytes == tensor_bytes(parameters)
    assert memory.adapter_bytes == 0


@pytest.mark.parametrize("use_scalar", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_adapter_and_its_optimizer_state_are_counted_to_the_byte(
    pipeline: HiDreamImagePipeline, name: str, use_scalar: bool
) -> None:
    plan = tiny_plan(use_scalar=use_scalar, optimizer=name, use_ema=True, ema_device="accelerator")
    assert plan.identity.adapter is not None
    model = deepcopy(pipeline.transformer)
    parameters = attach_adapter(model, plan.identity.adapter, 1).parameters()
    optimizer = OPTIMIZERS[name](parameters.values())
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

    memory = memory_of(plan)

    trained = tensor_bytes(parameters.values())
    assert memory.adapter_bytes == memory.gradients_bytes == memory.ema_bytes == trained
    assert trained_parameters(plan.identity, pipeline.transformer.config) * 4 == trained
    assert memory.optimizer_state_bytes == state_bytes(optimizer)
    assert memory.held_bytes == memory.base_weights_bytes + 3 * trained + state_bytes(optimizer)


def test_activations_grow_with_fewer_checkpointed_blocks_and_with_the_batch() -> None:
    none = memory_of(tiny_plan(gradient_checkpointing=False))
    every = memory_of(tiny_plan())
    half = memory_of(tiny_plan(gradient_checkpointing_interval=2))
    twice = memory_of(tiny_plan(train_batch_size=8))

    sizes = [m.activations_estimate_bytes for m in (every, half, none)]
    assert sizes == sorted(sizes)
    assert none.activations_estimate_bytes == every.activations_without_checkpointing_estimate_bytes
    assert twice.activations_estimate_bytes == 2 * every.activations_estimate_bytes
    assert every.total_bytes == every.held_bytes + every.activations_estimate_bytes


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_holds_the_slice_that_its_zero_stage_leaves_it(
    pipeline: HiDreamImagePipeline, ranks: int
) -> None:
    """Measured: the weights as one flat tensor, cut into a slice a rank, with AdamW on one slice.

    ZeRO stage 1 cuts the optimizer's state so, stage 2 also gradients, stage 3 also weights.
    """
    whole = [nn.Parameter(p.detach().clone()) for p in pipeline.transformer.parameters()]
    flat = torch.cat([parameter.detach().flatten() for parameter in whole])
    slices = flat.chunk(ranks)
    own = nn.Parameter(slices[0].clone())
    options = {"model_type": "full", "lora_type": None, "optimizer": "torch-adamw"}
    expected = {
        "optimizer_state_bytes": (1, adamw_state_bytes(whole), adamw_state_bytes([own])),
        "gradients_bytes": (2, tensor_bytes(whole), tensor_bytes([own])),
        "base_weights_bytes": (3, tensor_bytes(whole), tensor_bytes([own])),
    }

    for stage in (0, 1, 2, 3):
        memory = memory_of(tiny_plan(**options, world_size=ranks, zero_stage=stage))
        for name, (from_stage, of_all, of_one) in expected.items():
            # A step count a tensor, where the flat slice is one tensor; rounding of the slices.
            tolerance = 4 * (len(whole) + ranks)
            measured = of_one if stage >= from_stage else of_all
            assert abs(getattr(memory, name) - measured) <= tolerance, (stage, name)
    assert sum(part.numel() for part in slices) == sum(p.numel() for p in whole)
    assert tensor_bytes([own]) < tensor_bytes(whole) / (ranks - 0.5)


def test_each_rank_of_an_adapter_needs_what_one_gpu_needs() -> None:
    assert memory_of(tiny_plan(num_processes=4)) == memory_of(tiny_plan())


def adamw_state_bytes(parameters: list[nn.Parameter]) -> int:
    """Of torch's AdamW after one step."""
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return state_bytes(optimizer)


def test_every_optimizer_and_every_precision_of_a_plan_is_counted() -> None:
    assert set(STATE_BYTES) == set(get_args(OptimizerName))
    assert {plan.identity.optimizer.name for plan in map(plan_with, OPTIMIZERS)} == set(STATE_BYTES)
    for quantization in get_args(Quantization):
        memory = memory_of(tiny_plan(base_model_precision=quantization))
        assert memory.base_weights_bytes > 0


def plan_with(optimizer: str) -> Plan:
    return tiny_plan(optimizer=optimizer)
