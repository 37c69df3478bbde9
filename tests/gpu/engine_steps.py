"""Backends and batches of a small model on a CUDA device."""

from dataclasses import replace
from typing import Any, Final

import torch
from diffusers import HiDreamImageTransformer2DModel

from benchmarks.step.cases import Case
from benchmarks.step.plans import plan_of
from benchmarks.step.setting import Setting
from benchmarks.step.weights import fill_adapter, random_model
from trainer_core.base_models.known import WIDE_NAME
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.config.plan import Plan
from trainer_core.config.plan.matmul import pick_matmul
from trainer_core.engine.batch import Batch
from trainer_core.engine.pending import Pending
from trainer_core.engine.setup import make_deterministic
from trainer_core.engine.step import SingleProcess
from trainer_core.hidream.network import prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import capability_of, choose_compute

RATE: Final = 1e-3
SIZES: Final = ((16, 16), (12, 20), (20, 12), (8, 24), (24, 8), (10, 10))
"""Cells of six buckets."""
_CUDA: Final = torch.device("cuda")
_SETTING: Final = Setting(base_model=WIDE_NAME, device=_CUDA, dtype=torch.bfloat16, shrinks=8)


def backend_of(
    case: str = "512-bf16-ckpt", *, with_graphs: bool = True, **identity: Any
) -> SingleProcess:
    """On fresh random weights, deterministic; ``identity`` replaces fields of the plan.

    ``case``: precision and checkpointing, as in the benchmark's table.
    """
    make_deterministic({})
    _, precision, *rest = case.split("-")
    row = Case(case, (512, 512), precision, checkpointing=bool(rest))  # type: ignore[arg-type]
    plan = plan_of(row, _SETTING)
    ema = {"decay": 0.9, "warmup_steps": 0, "update_interval": 2}
    given = {**plan.identity.model_dump(mode="json"), "ema": ema, **identity}
    plan = Plan.model_validate({**plan.model_dump(mode="json"), "identity": given})
    compute = choose_compute("cuda", plan.identity.precision)
    transformer = random_model(
        HiDreamImageTransformer2DModel,
        _SETTING.transformer,
        drawn_on=_CUDA,
        device=_CUDA,
        dtype=compute.weights,
    )
    matmul = pick_matmul(plan.identity.precision, capability_of(compute.device)).kind
    network = prepare(transformer, plan, compute, matmul=matmul)
    assert network.capture_refusal is None
    fill_adapter(network.trained, drawn_on=_CUDA)
    if not with_graphs:
        network = replace(network, capture_refusal="a test compares with none")
    return SingleProcess(network, plan)


def optimizer_of(name: str) -> dict[str, Any]:
    rate = 1.0 if name == "prodigy" else RATE
    betas = [0.9, 0.99]
    return {"name": name, "learning_rate": rate, "betas": betas, "eps": 1e-8, "weight_decay": 0.01}


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


def on_device(batch: Batch) -> Batch:
    return batch.to(_CUDA)


def launch(backend: SingleProcess, step: int, *batches: Batch) -> Pending:
    given = [on_device(batch) for batch in batches]
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
