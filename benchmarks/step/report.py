"""Rows as JSON lines and as a table."""

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.step.agreement import agreement
from benchmarks.step.flops import forward_flops
from benchmarks.step.measure import GIB, Failure, Gradient, Timing
from benchmarks.step.run import Row
from benchmarks.step.setting import CAPTION_TOKENS, Setting
from benchmarks.trainer_matrix import environment

_PACKAGES: Final = (
    *("diffusers", "transformers", "triton", "simpletuner", "lycoris-lora", "optimum-quanto"),
    *("torch-optimi", "peft"),
)


def write(path: Path, rows: Sequence[Row], setting: Setting) -> None:
    """A header line, and a line for each case that has a result, with its kernels after it."""
    lines = [header(setting)]
    for row in rows:
        if row.ours is not None:
            lines.append(line_of(row, setting))
            lines += kernel_lines(row)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def header(setting: Setting) -> dict[str, Any]:
    """The machine and the versions that the figures depend on."""
    on_card = setting.device.type == "cuda"
    return {
        "machine": environment(),
        "card_gib": torch.cuda.mem_get_info()[1] / GIB if on_card else None,
        "base_model": setting.base_model,
        "type": str(setting.dtype).removeprefix("torch."),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def line_of(row: Row, setting: Setting) -> dict[str, Any]:
    """One case.

    ``peer_s`` and ``ratio`` are of the first peer of the case; ``peers`` has all. ``grad_cosine``
    is against diffusers' model with LyCORIS, which computes in bf16; ``grad_cosine_fp32`` is
    against the same in fp32, and ``peer_grad_cosine_fp32`` that of the bf16 model. ``tflops``:
    operations of forward and backward, without recomputing, per second.
    """
    case = row.case
    line: dict[str, Any] = {"case": case.name, "res": case.res, "batch": case.batch}
    line |= _figures(row.ours)
    line["foretold_gib"] = None if row.foretold_gib is None else round(row.foretold_gib, 2)
    peer = next((row.peers[name] for name in case.peers if name in row.peers), None)
    line["peer_s"] = round(peer.step_s, 4) if isinstance(peer, Timing) else None
    line["ratio"] = _ratio(peer, row.ours)
    line |= _agreement(row)
    line["tflops"] = _tflops(row, setting)
    line["peers"] = {name: _figures(each) for name, each in row.peers.items()}
    return line


def kernel_lines(row: Row) -> list[dict[str, Any]]:
    if row.kernels is None:
        return []
    if isinstance(row.kernels, Failure):
        return [{"kernels_of": row.case.name, "error": row.kernels.reason}]
    return [{"kernels_of": row.case.name, **asdict(row.kernels)}]


def table(rows: Sequence[Row], setting: Setting) -> Iterator[str]:
    """The cases as a Markdown table."""
    yield (
        "| case | ours s (min to max) | peak GiB | reserved | first step s | SimpleTuner s | "
        "diffusers s | ratio | gradient cosine | TFLOP/s |"
    )
    yield "| --- " * 10 + "|"
    for row in rows:
        line = line_of(row, setting)
        peers = [_time_cell(row.peers.get(name)) for name in ("simpletuner", "diffusers")]
        yield (
            f"| {row.case.name} | {_time_cell(row.ours)} | {_cell(line.get('peak_gib'))} | "
            f"{_cell(line.get('peak_reserved_gib'))} | {_cell(line.get('first_step_s'))} | "
            f"{peers[0]} | {peers[1]} | {_cell(line['ratio'])} | "
            f"{_cell(line['grad_cosine'])} | {_cell(line['tflops'])} |"
        )


def _figures(result: Timing | Failure | None) -> dict[str, Any]:
    if isinstance(result, Timing):
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(result).items()
        }
    if isinstance(result, Failure):
        key = "out_of_memory" if result.out_of_memory else "error"
        return {"step_s": None, key: result.reason}
    return {"step_s": None}


def _ratio(peer: Timing | Failure | None, ours: Timing | Failure | None) -> float | None:
    if isinstance(peer, Timing) and isinstance(ours, Timing):
        return round(peer.step_s / ours.step_s, 2)
    return None


def _agreement(row: Row) -> dict[str, Any]:
    found, reference, exact = row.gradient, row.reference, row.exact
    line: dict[str, Any] = {
        "grad_cosine": None,
        "loss": found.loss if isinstance(found, Gradient) else None,
        "peer_loss": reference.loss if isinstance(reference, Gradient) else None,
        "loss_relative": None,
    }
    if isinstance(found, Gradient) and isinstance(reference, Gradient):
        agreed = agreement(found, reference)
        line |= {
            "grad_cosine": round(agreed.cosine, 6),
            "grad_relative": round(agreed.relative, 5),
            "loss_relative": round(agreed.loss_relative, 7),
        }
    if isinstance(exact, Gradient):
        line["loss_fp32"] = exact.loss
        if isinstance(found, Gradient):
            line["grad_cosine_fp32"] = round(agreement(found, exact).cosine, 6)
        if isinstance(reference, Gradient):
            line["peer_grad_cosine_fp32"] = round(agreement(reference, exact).cosine, 6)
    failures = {"gradient": found, "reference": reference, "fp32": exact}
    missing = {name: each.reason for name, each in failures.items() if isinstance(each, Failure)}
    return line | ({"no_gradient": missing} if missing else {})


def _tflops(row: Row, setting: Setting) -> float | None:
    if not isinstance(row.ours, Timing):
        return None
    flops = forward_flops(
        setting.transformer,
        image_tokens=setting.image_tokens(row.case),
        batch=row.case.batch,
        caption_tokens=CAPTION_TOKENS,
    )
    return float(f"{flops.step / row.ours.step_s / 1e12:.4g}")


def _time_cell(result: Timing | Failure | None) -> str:
    if isinstance(result, Timing):
        return f"{result.step_s:.3f} ({result.min_s:.3f} to {result.max_s:.3f})"
    if isinstance(result, Failure):
        return "out of memory" if result.out_of_memory else "failed"
    return "-"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
