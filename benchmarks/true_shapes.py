"""Training steps of HiDream-I1's published shape with random weights, on one CUDA device.

    python -m benchmarks.true_shapes --output results.json [--steps 5]

The plan is made from SimpleTuner's quick-start configuration: LoKr of factor 16 on attention with a
scalar, Lion, int8 base, clipping by value, gradient checkpointing of whole blocks, one sample of
1024 px per step. Each variant changes the options in its name. Weights and data are random, so only
the seconds and bytes have a meaning. The table shows the memory that `reverie validate` plans too.
"""

import argparse
import gc
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel

from benchmarks.trainer_matrix import EXAMPLES, environment
from trainer_core.base_models.known import PUBLISHED
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.documents import load_document
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import SingleProcess
from trainer_core.hidream.network import prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.memory.report import plan_memory
from trainer_core.precision.compute import choose_compute

_BASE = "HiDream-ai/HiDream-I1-Full"
_QUICK_START: Mapping[str, Any] = {
    "pretrained_model_name_or_path": _BASE,
    "resolution": 1024,
    "validation_resolution": "1024x1024",
    "learning_rate": "4e-5",
    "lr_warmup_steps": 100,
    "max_train_steps": 10000,
    "device": "cuda",
}
_LORA: Mapping[str, Any] = {"lora_type": "standard", "lora_rank": 16, "lora_dropout": 0.0}
VARIANTS: Mapping[str, tuple[Mapping[str, Any], tuple[int, int]]] = {
    "quick-start: LoKr, int8": ({}, (1024, 1024)),
    "LoKr, int8, 768x1280": ({}, (768, 1280)),
    "LoKr, int8, 768x1280, pad_compat": ({"pad_compat": True}, (768, 1280)),
    "LoKr, int8, 512": ({}, (512, 512)),
    "LoKr, int8, balancing loss": (
        {"hidream_use_load_balancing_loss": True},
        (1024, 1024),
    ),
    "LoRA rank 16, int8": (_LORA, (1024, 1024)),
    "LoKr, int8, bnb-lion8bit-paged": ({"optimizer": "bnb-lion8bit-paged"}, (1024, 1024)),
    "LoKr, bf16": ({"base_model_precision": "no_change"}, (1024, 1024)),
}


def plan_of(options: Mapping[str, Any]) -> Plan:
    demo = EXAMPLES / "demo"
    raw: Any = load_document(demo / "config.json")
    lycoris: Any = load_document(demo / "lycoris_config.json")
    config = {**raw, **_QUICK_START, **options}
    return import_run(
        config=config,
        lycoris_config=None if config["lora_type"] == "standard" else lycoris,
        data_backends=[{"id": "photos", "caption_strategy": "filename"}],
        prompt_library=None,
        base_models={_BASE: PUBLISHED.as_base(_BASE)},
        source="http",
    ).plan


def random_transformer() -> HiDreamImageTransformer2DModel:
    """The published shape on the device, bf16; small weights, so that nothing overflows."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = HiDreamImageTransformer2DModel.from_config(dict(PUBLISHED.transformer))
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            elif name.endswith("bias"):
                parameter.zero_()
    return model


def batches(size_px: tuple[int, int], order: int) -> Iterator[Batch]:
    """One sample of this width and height, with captions of 128 tokens."""
    draw = torch.Generator("cuda").manual_seed(order)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, generator=draw, device="cuda", dtype=dtype)

    width, height = (side // 8 for side in size_px)
    yield Batch(
        noisy_BCHW=normal(1, 16, height, width),
        target_BCHW=normal(1, 16, height, width, dtype=torch.float32),
        sigmas_B=torch.rand(1, generator=draw, device="cuda"),
        text=TextEmbeddings(normal(1, 128, 4096), normal(1, 32, 128, 4096), normal(1, 2048)),
    )


def measure(options: Mapping[str, Any], size_px: tuple[int, int], steps: int) -> dict[str, Any]:
    plan = plan_of(options)
    compute = choose_compute("cuda", plan.identity.precision)
    network = prepare(random_transformer(), plan, compute)
    backend = SingleProcess(network, plan)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    seconds, losses = [], []
    for step in range(1, steps + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        launched = backend.launch(batches(size_px, step), count=1, step=step, learning_rate=4e-5)
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
        losses.append(launched.read().loss)
    planned = plan_memory(
        plan,
        PUBLISHED,
        largest_image_px=size_px[0] * size_px[1],
    )
    return {
        "s_per_step": round(statistics.median(seconds[1:]), 4),
        "s_each": [round(second, 4) for second in seconds],
        "held_bytes": held,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "foretold_held_bytes": planned.held_bytes,
        "foretold_total_bytes": planned.total_bytes,
        "modules": network.trainable_modules,
        "losses": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    gib = 2**30
    for name, (options, size_px) in VARIANTS.items():
        try:
            results[name] = measure(options, size_px, args.steps)
        except (RuntimeError, ValueError, TypeError) as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"[:400]}
        gc.collect()
        torch.cuda.empty_cache()
        print(name, results[name], flush=True)
        body = {"machine": environment(), "runs": results}
        args.output.write_text(json.dumps(body, indent=1) + "\n")
    print("| run | s/step | peak GiB | planned GiB |\n| --- | --- | --- | --- |")
    for name, run in results.items():
        if "error" in run:
            print(f"| {name} | did not run: {run['error'][:80]} | | |")
            continue
        peak, planned = run["peak_bytes"] / gib, run["foretold_total_bytes"] / gib
        print(f"| {name} | {run['s_per_step']:.2f} | {peak:.1f} | {planned:.1f} |")


if __name__ == "__main__":
    main()
