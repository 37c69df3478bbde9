"""How exact a training step is: ours in bf16, e4m3 and int8 against diffusers' model in fp32.

    python -m benchmarks.accuracy --output FILE [--tiny]

One sample of 512 px on HiDream-I1's true shape. Weights are random, each row with a size of its
own, and the adapter is away from zero. diffusers' own bf16 stands beside ours. The fp32 weights
take 64 GiB of the CUDA device. ``--tiny`` runs a miniature in fp32 on a CPU; there only the 8-bit
base differs.

Twice: with weights as torch draws them, and with larger ones that keep the variance of their input.
The second network changes tokens much more in each block, so it magnifies every error, and more
tokens change their experts. Its figures are shown, and no limit is set for them.

A line for each subject: relative error of the output, cosine and relative error of the adapter's
gradient, the share of the tensors that count (norm above 1e-3 of the whole) whose cosine is at
least 0.99, and the tensors that agree least. Exit status 1 where a subject misses its limits.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.step.agreement import agreement, relative_error, worst
from benchmarks.step.cases import Case
from benchmarks.step.measure import Failure, Gradient, attempt, free_memory
from benchmarks.step.ours import Ours
from benchmarks.step.peers import Peer
from benchmarks.step.report import header
from benchmarks.step.setting import Setting, tiny_setting, true_setting
from benchmarks.step.weights import TORCH_GAIN

_COSINE: Final = 0.99
_WORST: Final = 10
_CASES: Final = {
    "ours, bf16": Case("bf16", (512, 512), "bf16"),
    "ours, 8 bits": Case("8bit", (512, 512), "8bit"),
    "ours, int8": Case("int8", (512, 512), "int8"),
}
_LIMITED: Final = "as torch draws them"
_GAINS: Final = {_LIMITED: TORCH_GAIN, "of unit gain": 1.0}
LEAST_COSINE: Final = 0.995
"""Of the 8-bit gradient as a whole."""
LEAST_SHARE: Final = 0.95
"""Of the tensors of the 8-bit gradient that count: those of cosine 0.99 and more."""
BF16_MARGIN: Final = 1.05
"""Ours in bf16 may be as far from fp32 as diffusers' bf16 is, times this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a subject computes of the one batch."""

    output: torch.Tensor
    gradient: Gradient


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tiny", action="store_true", help="a miniature on the CPU")
    args = parser.parse_args()
    setting = tiny_setting() if args.tiny else true_setting()
    torch.backends.cuda.matmul.allow_tf32 = False
    written = [header(setting)]
    has_missed = False
    for weights, gain in _GAINS.items():
        lines = _lines(replace(setting, weight_gain=gain))
        misses = _misses(lines) if weights == _LIMITED else {}
        has_missed = has_missed or any(misses.values())
        for name, line in lines.items():
            entry = {"weights": weights, "subject": name, **line, "misses": misses.get(name, [])}
            written.append(entry)
            print(json.dumps({key: each for key, each in entry.items() if key != "worst"}))
            for each in line.get("worst", ()):
                print(f"    {each['cosine']:.5f}  norm {each['norm']:.1e}  {each['name']}")
        args.output.write_text("".join(json.dumps(line) + "\n" for line in written))
    return 1 if has_missed else 0


def _lines(setting: Setting) -> dict[str, dict[str, Any]]:
    """The figures of each subject, by name."""
    exact = _peer(setting, in_fp32=True)
    answers = {"diffusers, bf16": attempt(_peer, setting, in_fp32=False)}
    for name, case in _CASES.items():
        answers[name] = attempt(_ours, case, setting)
    return {name: _line(answer, exact) for name, answer in answers.items()}


def _misses(lines: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    return {
        "ours, bf16": _bf16_misses(lines["ours, bf16"], lines["diffusers, bf16"]),
        **{name: _8bit_misses(lines[name]) for name in ("ours, 8 bits", "ours, int8")},
    }


def _peer(setting: Setting, *, in_fp32: bool) -> Answer:
    free_memory()
    peer = Peer("diffusers", None if in_fp32 else "bf16", "attention", setting)
    peer.set_checkpointing(on=True)
    return _answer(peer, setting, peer.dtype)


def _ours(case: Case, setting: Setting) -> Answer:
    free_memory()
    return _answer(Ours(case, setting), setting, setting.dtype)


def _answer(subject: Peer | Ours, setting: Setting, dtype: torch.dtype) -> Answer:
    free_memory()
    batch = setting.batch(_CASES["ours, bf16"], dtype)
    gradient = subject.gradient(batch)
    return Answer(subject.velocity(batch).float().cpu(), gradient)


def _line(answer: Answer | Failure, exact: Answer) -> dict[str, Any]:
    if isinstance(answer, Failure):
        return {"error": answer.reason}
    agreed = agreement(answer.gradient, exact.gradient)
    return {
        "output_relative": round(relative_error(answer.output, exact.output), 6),
        "loss": answer.gradient.loss,
        "loss_fp32": exact.gradient.loss,
        "grad_cosine": round(agreed.cosine, 6),
        "grad_relative": round(agreed.relative, 6),
        "share_of_tensors": round(agreed.share_above(_COSINE), 4),
        "worst": worst(agreed, _WORST),
    }


def _bf16_misses(ours: Mapping[str, Any], stock: Mapping[str, Any]) -> list[str]:
    """The figures in which ours is further from fp32 than diffusers is."""
    if "error" in ours or "error" in stock:
        return ["it failed"]
    return [
        figure
        for figure in ("output_relative", "grad_relative")
        if ours[figure] > max(stock[figure] * BF16_MARGIN, 1e-5)
    ]


def _8bit_misses(ours: Mapping[str, Any]) -> list[str]:
    if "error" in ours:
        return ["it failed"]
    limits = {"grad_cosine": LEAST_COSINE, "share_of_tensors": LEAST_SHARE}
    return [figure for figure, least in limits.items() if ours[figure] < least]


if __name__ == "__main__":
    sys.exit(main())
