"""Backends and batches of a small model on a CUDA device."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from diffusers import HiDreamImageTransformer2DModel

from benchmarks.step.cases import Case, Precision
from benchmarks.step.plans import plan_of
from benchmarks.step.setting import Setting
from benchmarks.step.weights import fill_adapter, random_model
from trainer_core.base_models.known import WIDE_NAME
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Plan
from trainer_core.config.plan.matmul import pick_matmul
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.engine.batch import Batch
from trainer_core.engine.determinism import set_determinism
from trainer_core.engine.pending import Pending
from trainer_core.engine.step import SingleProcess
from trainer_core.hidream.network import prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import capability_of, choose_compute

# While tests are collected, before one of them multiplies on a card: torch reads it once.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
RATE: Final = 1e-3
SIZES: Final = ((16, 16), (12, 20), (20, 12), (8, 24), (24, 8), (10, 10))
"""Cells of six buckets."""
_PRECISIONS: Final[Mapping[str, Precision]] = {
    "8bit": "8bit",
    "int8": "int8",
    "bf16": "bf16",
    "fp32": "bf16",
    "full": "bf16",
}
"""Of a case of the benchmark, by the second part of a name here."""
_CUDA: Final = torch.device("cuda")
_HALF: Final = torch.bfloat16
"""What batches have of what the network reads."""
_SETTING: Final = Setting(base_model=WIDE_NAME, device=_CUDA, dtype=torch.bfloat16, shrinks=8)


def backend_of(
    case: str = "512-bf16-ckpt",
    *,
    with_graphs: bool = True,
    deterministic: bool = True,
    **identity: Any,
) -> SingleProcess:
    """On fresh random weights; ``identity`` replaces fields of the plan.

    ``case``: precision and checkpointing, as in the benchmark's table; or fp32, whose blocks are
    plain ones and have no graph; or full, whose blocks are plain ones with graphs.
    """
    _, named, *rest = case.split("-")
    is_full = named == "full"
    precision = _PRECISIONS[named]
    plan = plan_of(Case(case, (512, 512), precision, checkpointing=bool(rest)), _SETTING)
    if named == "fp32":
        fp32 = {**plan.identity.precision.model_dump(mode="json"), "compute": "fp32"}
        identity = {"precision": fp32, **identity}
    if is_full:
        identity = {"model_type": "full", "adapter": None, **identity}
    ema = {"decay": 0.9, "warmup_steps": 0, "update_interval": 2}
    given = {**plan.identity.model_dump(mode="json"), "ema": ema, **identity}
    operation = {**plan.operation.model_dump(mode="json"), "deterministic": deterministic}
    plan = Plan.model_validate({"identity": given, "operation": operation})
    set_determinism({}, plan.operation)
    compute = choose_compute("cuda", plan.identity.precision, trains_base=is_full)
    transformer = random_model(
        HiDreamImageTransformer2DModel,
        _SETTING.transformer,
        drawn_on=_CUDA,
        device=_CUDA,
        dtype=compute.weights,
    )
    matmul = pick_matmul(plan.identity.precision, capability_of(compute.device)).kind
    network = prepare(transformer, plan, compute, matmul=matmul)
    assert (network.capture_refusal is None) == (compute.weights is torch.bfloat16 or is_full)
    if not is_full:
        fill_adapter(network.trained, drawn_on=_CUDA)
    if not with_graphs:
        network = replace(network, capture_refusal="a test compares with none")
    return SingleProcess(network, plan)


def optimizer_of(name: str) -> dict[str, Any]:
    rate = 1.0 if name == "prodigy" else RATE
    betas = [0.9, 0.99]
    return {"name": name, "learning_rate": rate, "betas": betas, "eps": 1e-8, "weight_decay": 0.01}


def lora_with_dropout() -> dict[str, Any]:
    """Fields of a plan: LoRA on every linear but those of routed experts.

    Not all cards multiply those in groups.
    """
    paths = [linear.path for linear in hidream_linears(_SETTING.transformer)]
    adapter = {
        "kind": "lora",
        "rank": 8,
        "alpha": 8.0,
        "dropout": 0.2,
        "init": "default",
        "modules": [path for path in paths if ".experts." not in path],
    }
    return {"model_type": "lora", "adapter": adapter}


def batch_of(
    seed: int, size: tuple[int, int] = SIZES[0], *, masked: bool = False, prior: bool = False
) -> Batch:
    """One sample on the CPU, as a run's batches are made."""
    draw = torch.Generator().manual_seed(seed)
    config = _SETTING.transformer
    t5, llama = config["caption_channels"]
    layers = max(config["llama_layers"]) + 1

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).bfloat16()

    return Batch(
        noisy_BCHW=normal(1, config["in_channels"], *size),
        target_BCHW=normal(1, config["out_channels"], *size).float(),
        sigmas_B=torch.rand(1, generator=draw),
        text=TextEmbeddings(
            normal(1, 128, t5), normal(1, layers, 128, llama), normal(1, config["text_emb_dim"])
        ),
        mask_B1HW=torch.rand(1, 1, *size, generator=draw) if masked else None,
        is_prior_B=torch.tensor([True]) if prior else None,
        dropout_seed=torch.tensor(seed),
    )


def on_device(batch: Batch, backend: SingleProcess) -> Batch:
    """The batch in the type of the backend's weights."""
    dtype = backend._network.compute.weights
    return batch.to(_CUDA).map(lambda each: each.to(dtype) if each.dtype is _HALF else each)


def launch(backend: SingleProcess, step: int, *batches: Batch) -> Pending:
    given = [on_device(batch, backend) for batch in batches]
    return backend.launch(given, count=len(batches), step=step, learning_rate=RATE)


def snapshot(trained: TrainedTensors) -> dict[str, torch.Tensor]:
    """Copies of everything that a checkpoint holds."""
    everything = {f"param/{name}": value for name, value in trained.parameters.items()}
    everything |= {f"ema/{name}": value for name, value in trained.ema.items()}
    return {name: v.clone() for name, v in (everything | dict(trained.optimizer_state)).items()}


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors whose bits differ."""
    assert a.keys() == b.keys()
    return [name for name, value in a.items() if not _same_bits(value, b[name])]


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
