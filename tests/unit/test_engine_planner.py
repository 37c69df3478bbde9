"""Memory is counted without torch as torch would count it."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import pytest
import torch
from bitsandbytes.optim import PagedLion8bit
from diffusers import AutoencoderKL, HiDreamImagePipeline, HiDreamImageTransformer2DModel
from optimi import Lion
from optimum.quanto import QTensor, freeze, qint8, quantize
from prodigyopt import Prodigy
from torch import nn

from tests.unit.config_examples import SMALL_CONFIG, SMALL_LYCORIS, TRUE_CONFIG, base_model
from trainer_core.adapters.attach import attach_adapter
from trainer_core.base_models.known import KNOWN_MODELS, PUBLISHED, PartConfigs
from trainer_core.base_models.part_sizes import text_encoder_size, transformer_size, vae_parameters
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.hidream.testing.tiny import build_pipeline
from trainer_core.memory.planner import Memory, plan_memory, trained_parameters

NOTHING = (None, None, None, None)
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "optimi-lion": lambda trained: Lion(trained, lr=1e-3, kahan_sum=True),
    "torch-adamw": lambda trained: torch.optim.AdamW(trained, lr=1e-3),
    "bnb-lion8bit-paged": lambda trained: PagedLion8bit(trained, lr=1e-3),
    "prodigy": lambda trained: Prodigy(trained, lr=1.0),
}


@pytest.fixture(scope="module")
def pipeline() -> HiDreamImagePipeline:
    return build_pipeline()


def tiny_plan(*, use_scalar: bool = False, **options: Any) -> Plan:
    """On the shape of the test model, in fp32 on a CPU."""
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
    """Each storage once: optimizers share some between parameters."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return tensor_bytes(
        value
        for fields in optimizer.state.values()
        for value in fields.values()
        if isinstance(value, torch.Tensor)
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_known_shapes_are_those_of_the_models(pipeline: HiDreamImagePipeline) -> None:
    config = dict(pipeline.transformer.config)
    known = KNOWN_MODELS["hidream-tiny"].transformer

    assert {key: _plain(config[key]) for key in known} == dict(known)
    assert dict(PUBLISHED.transformer) == TRUE_CONFIG


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_transformers_are_counted_as_torch_counts_them(pipeline: HiDreamImagePipeline) -> None:
    with torch.device("meta"):
        published = HiDreamImageTransformer2DModel(**TRUE_CONFIG)
        vae = AutoencoderKL(
            **{
                **PUBLISHED.vae,
                "down_block_types": ("DownEncoderBlock2D",) * 4,
                "up_block_types": ("UpDecoderBlock2D",) * 4,
            }
        )

    size = transformer_size(PUBLISHED.transformer)
    linears = [module for module in published.modules() if isinstance(module, nn.Linear)]
    assert size.parameters == count(published)
    assert size.linears == len(linears)
    assert size.linear_weights == sum(linear.weight.numel() for linear in linears)
    assert size.linear_rows == sum(linear.out_features for linear in linears)
    assert transformer_size(pipeline.transformer.config).parameters == count(pipeline.transformer)
    assert vae_parameters(PUBLISHED.vae or {}) == count(vae)
    assert vae_parameters(pipeline.vae.config) == count(pipeline.vae)


def test_encoders_are_counted_as_torch_counts_them(pipeline: HiDreamImagePipeline) -> None:
    for number in (1, 2, 3, 4):
        encoder = getattr(pipeline, f"text_encoder{'' if number == 1 else f'_{number}'}")
        size = text_encoder_size(number, encoder.config.to_dict())
        linears = [module for module in encoder.modules() if isinstance(module, nn.Linear)]

        assert size.parameters == count(encoder)
        assert (size.linears, size.linear_weights, size.linear_rows) == (
            len(linears),
            sum(linear.weight.numel() for linear in linears),
            sum(linear.out_features for linear in linears),
        )


def test_the_published_encoders_have_their_known_sizes() -> None:
    sizes = [
        text_encoder_size(number, config or {}).parameters
        for number, config in enumerate(PUBLISHED.text_encoders, start=1)
    ]

    assert sizes[2:] == [4_762_310_656, 8_030_261_248]  # T5 v1.1 XXL's encoder, Llama 3.1 8B


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


def test_recomputing_fewer_blocks_takes_more_and_more_pictures_too() -> None:
    none = memory_of(tiny_plan(gradient_checkpointing=False))
    every = memory_of(tiny_plan())
    half = memory_of(tiny_plan(gradient_checkpointing_interval=2))
    twice = memory_of(tiny_plan(train_batch_size=8))

    sizes = [m.activations_estimate_bytes for m in (every, half, none)]
    assert sizes == sorted(sizes)
    assert none.activations_estimate_bytes == every.activations_without_checkpointing_estimate_bytes
    assert twice.activations_estimate_bytes == 2 * every.activations_estimate_bytes
    assert every.total_bytes == every.held_bytes + every.activations_estimate_bytes


def test_ranks_share_what_their_stage_shares() -> None:
    full = {"model_type": "full", "lora_type": None, "optimizer": "torch-adamw", "world_size": 4}
    stages = [memory_of(tiny_plan(**full, zero_stage=stage)) for stage in (0, 1, 2, 3)]

    for name, from_stage in (
        ("optimizer_state_bytes", 1),
        ("gradients_bytes", 2),
        ("base_weights_bytes", 3),
    ):
        sizes = [getattr(memory, name) for memory in stages]
        whole = sizes[0]
        assert sizes == [whole] * from_stage + [-(-whole // 4)] * (4 - from_stage)
