"""Train every combination of precision, adapter and optimizer: a table, and figures as JSON.

    python -m benchmarks.trainer_matrix --output results.json [--device cpu] [--only lokr]

Each cell trains `hidream-wide` (random weights, GEMM sides that are multiples of 16) on the example
photographs at 128 px for six steps through `reverie train`'s own code, with a checkpoint after the
third. A second run resumes from that checkpoint in a folder of its own, and the final states are
compared. A cell that fails is a row too, with the error message.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trainer_core.documents import load_document
from trainer_core.errors import TrainerError
from trainer_core.local.run import LocalRun, train_locally
from trainer_core.process.events import Event

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
STEPS, HALF, EDGE_PX = 6, 3, 128

ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "lokr": {},
    "lora": {"lora_type": "standard", "lora_rank": 16, "lora_alpha": 8, "lycoris_config": None},
    "full": {"model_type": "full", "lora_type": None, "lycoris_config": None},
}
BASES: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"base_model_precision": "no_change", "mixed_precision": "no"},
    "bf16": {"base_model_precision": "no_change", "mixed_precision": "bf16"},
    "int8": {"base_model_precision": "int8-quanto", "mixed_precision": "bf16"},
}
OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "optimi-lion": {"learning_rate": 1e-4},
    "torch-adamw": {"learning_rate": 1e-4},
    "optimi-adamw": {"learning_rate": 1e-4},
    "bnb-lion8bit-paged": {"learning_rate": 1e-4},
    "prodigy": {"learning_rate": 1.0},
}
_ALL_AT_ONCE = {
    "use_ema": True,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing_interval": 2,
    "hidream_use_load_balancing_loss": True,
    "hidream_load_balancing_loss_weight": 0.1,
    "flow_schedule_auto_shift": True,
    "loss_type": "huber",
    "pad_compat": True,
    "grad_clip_method": "norm",
    "max_grad_norm": 1.0,
    "quantize_via": "cpu",
    "caption_dropout_probability": 0.3,
}


class _Silent:
    def log(self, text: str) -> None:
        pass

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def event(self, event: Event) -> None:
        pass


def cells() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Adapter, base precision, optimizer and options of each cell."""
    for adapter, kind in ADAPTERS.items():
        for base, precision in BASES.items():
            if adapter == "full" and base == "int8":
                continue  # refused by the plan
            for optimizer, rate in OPTIMIZERS.items():
                yield (
                    adapter,
                    base,
                    optimizer,
                    {**kind, **precision, "optimizer": optimizer, **rate},
                )
    all_options = {
        **BASES["int8"],
        "optimizer": "optimi-lion",
        "learning_rate": 1e-4,
        **_ALL_AT_ONCE,
    }
    yield "lokr", "int8, all options", "optimi-lion", all_options


def train(options: Mapping[str, Any], output: Path, cache: Path) -> list[dict[str, Any]]:
    """Train one run in this process; returns its events."""
    demo = EXAMPLES / "demo"
    raw: Any = load_document(demo / "config.json")
    backends: Any = load_document(demo / "multidatabackend.json")
    lycoris: Any = load_document(demo / "lycoris_config.json")
    for backend in backends:
        for key in ("resolution", "minimum_image_size", "maximum_image_size"):
            if key in backend:
                backend[key] = EDGE_PX
        if "target_downsample_size" in backend:
            backend["target_downsample_size"] = EDGE_PX
    config = {
        **raw,
        "pretrained_model_name_or_path": "hidream-wide",
        "resolution": EDGE_PX,
        "validation_resolution": str(EDGE_PX),
        "validation_num_inference_steps": 2,
        "max_train_steps": STEPS,
        "checkpoint_step_interval": HALF,
        "lr_warmup_steps": 2,
        "report_to": "none",
        **options,
    }
    is_lokr = config.get("lycoris_config") is not None
    run = LocalRun(
        config={name: value for name, value in config.items() if value is not None},
        lycoris_config=lycoris if is_lokr else None,
        data_backends=backends,
        prompt_library=None,
        folders=(EXAMPLES.parent,),
        output_dir=output,
        cache_dir=cache,
        events=None,
        control=None,
    )
    train_locally(run, os.environ, _Silent(), lambda _: None)
    lines = (output / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def measure(options: Mapping[str, Any], folder: Path, cache: Path) -> dict[str, Any]:
    """Train, resume from the middle in another folder, compare; seconds per step, peak memory."""
    on_cuda = torch.cuda.is_available() and options.get("device") != "cpu"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    events = train(options, folder / "whole", cache)
    peak = torch.cuda.max_memory_allocated() if on_cuda else None
    middle = folder / f"whole/checkpoints/step-{HALF:08d}"
    train({**options, "resume_from_checkpoint": str(middle)}, folder / "resumed", cache)
    steps = {event["step"]: event for event in events if event["event"] == "step"}
    fixed_losses = [event["mean"] for event in events if event["event"] == "eval"]
    # The step after a checkpoint waits for the disk; the first ones for kernels.
    spans = [steps[n]["t_s"] - steps[n - 1]["t_s"] for n in (3, 5, 6)]
    return {
        "s_per_step": round(statistics.median(spans), 4),
        "peak_bytes": peak,
        "loss_first": steps[1]["loss"],
        "loss_last": steps[STEPS]["loss"],
        "probe": [fixed_losses[0], fixed_losses[-1]],
        **_difference(folder),
    }


def _difference(folder: Path) -> dict[str, Any]:
    one, other = (
        load_file(folder / name / f"checkpoints/step-{STEPS:08d}/state.safetensors")
        for name in ("whole", "resumed")
    )
    assert one.keys() == other.keys()
    changed = [name for name in one if not torch.equal(one[name], other[name])]
    parameters = [name for name in one if name.startswith("param/")]
    error = sum((one[n].double() - other[n].double()).square().sum().item() for n in parameters)
    norm = sum(one[n].double().square().sum().item() for n in parameters)
    return {"resume_bit_equal": not changed, "resume_relative_difference": (error / norm) ** 0.5}


def environment() -> dict[str, Any]:
    """The machine and versions that the figures depend on."""
    on_cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if on_cuda else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def _rows(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| adapter | base | optimizer | s/step | peak MiB | loss 1 → 6 | resume |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for cell in results:
        head = f"| {cell['adapter']} | {cell['base']} | {cell['optimizer']} |"
        if "error" in cell:
            yield f"{head} did not run: {cell['error']} | | | |"
            continue
        peak = "-" if cell["peak_bytes"] is None else f"{cell['peak_bytes'] / 2**20:.0f}"
        same = (
            "bit-equal"
            if cell["resume_bit_equal"]
            else (f"{cell['resume_relative_difference']:.1e}")
        )
        yield (
            f"{head} {cell['s_per_step']:.3f} | {peak} | {cell['loss_first']:.4f} → "
            f"{cell['loss_last']:.4f} | {same} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--only", metavar="TEXT", help="run only the cells whose names contain this text"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder to keep the runs in")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.setdefault("REVERIE_HOME", str(work / "home"))
        for number, (adapter, base, optimizer, options) in enumerate(cells()):
            name = f"{adapter} {base} {optimizer}"
            if args.only and args.only not in name:
                continue
            started_s = time.monotonic()
            cell: dict[str, Any] = {"adapter": adapter, "base": base, "optimizer": optimizer}
            try:
                cell |= measure(
                    {**options, "device": args.device}, work / str(number), work / "cache"
                )
            except (TrainerError, RuntimeError, ValueError, TypeError) as error:
                cell["error"] = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
            results.append(cell)
            print(f"{name}: {time.monotonic() - started_s:.1f} s {cell}", flush=True)
            body = {"machine": environment(), "cells": results}
            args.output.write_text(json.dumps(body, indent=1) + "\n")
    print("\n".join(_rows(results)))


if __name__ == "__main__":
    main()
