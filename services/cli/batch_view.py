"""Batches as text: their runs side by side, and a line for a run."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from services.cli import output
from trainer_core.in_words import duration

if TYPE_CHECKING:
    from services.client.batch_shapes import (
        Batch,
        BatchSummary,
        ComparedRun,
        Comparison,
        RefusedRow,
    )

_ORDER: Final = (
    "succeeded", "failed", "canceled", "canceling", "running", "pausing", "paused", "queued",
)  # fmt: skip
_VALUE_CHARACTERS: Final = 40


def facts(batch: "Batch | BatchSummary") -> dict[str, object]:
    """What is told of a batch before its rows."""
    total = batch["num_runs"] + batch["num_refused"]
    refused = batch["num_refused"]
    return {
        "batch": batch["id"],
        "name": batch["name"] or None,
        "runs": f"{batch['num_runs']} of {total}" if refused else batch["num_runs"],
        "status": status(batch["counts"]),
        "step": f"{batch['step']} of {batch['max_steps'] or 'steps that are not counted yet'}",
        "charged": charged(batch["charged_s"], batch["cost_micros"], batch["currency"]),
        "created": output.when(batch["created_at"]),
    }


def status(counts: Mapping[str, int]) -> str:
    """``2 running, 10 queued``, with the ended ones first."""
    return ", ".join(f"{counts[name]} {name}" for name in _ORDER if counts.get(name))


def charged(charged_s: float, cost_micros: int, currency: str | None) -> str | None:
    """Time and price; None where nothing was charged."""
    if not charged_s:
        return None
    cost = f", {cost_micros / 1e6:.2f} {currency}" if currency else ""
    return f"{duration(charged_s)}{cost}"


def heads(options: Sequence[str]) -> list[str]:
    """Names of options as heads of columns: the last part, where no other one has the same."""
    last = [name.rpartition(".")[2] for name in options]
    return [
        short if last.count(short) == 1 else name for short, name in zip(last, options, strict=True)
    ]


def columns(comparison: "Comparison") -> tuple[str, ...]:
    """The heads of the table of runs."""
    return (
        "ROW",
        "RUN",
        *heads(comparison["options"]),
        "STATUS",
        "STEP",
        "LOSS",
        "BEST",
        "EVAL",
        "CHARGED",
    )


def cells(run: "ComparedRun", options: Sequence[str]) -> tuple[object, ...]:
    """The line of a run in that table; ``options`` are those of the comparison."""
    return (
        run["row"],
        run["run_id"],
        *values(run["options"], options),
        *progress(run),
        number(run["best_loss"]),
        number(None if run["evaluation"] is None else run["evaluation"]["mean"]),
        charged(run["charged_s"], run["cost_micros"], run["currency"]) or "-",
    )


def values(chosen: Mapping[str, Any], options: Sequence[str]) -> tuple[str, ...]:
    """The values of these options in one run."""
    return tuple(value(chosen.get(name)) for name in options)


def progress(run: "ComparedRun") -> tuple[str, str, str]:
    """Status, step and newest loss."""
    return run["status"], output.of_steps(run["step"], run["max_steps"]), number(run["loss"])


def number(loss: float | None) -> str:
    """A loss; a dash where there is none."""
    return "-" if loss is None else f"{loss:.4f}"


def line(run: "ComparedRun") -> str:
    """One run where there is no terminal."""
    stage = f"/{run['stage']}" if run["stage"] else ""
    loss = "" if run["loss"] is None else f", loss {run['loss']:.4f}"
    reason = run["status_reason"]
    why = f": {reason['message']} [{reason['code']}]" if reason else ""
    where = f"step {output.of_steps(run['step'], run['max_steps'])}"
    return f"{row(run['row'], run['options'])}: {run['status']}{stage}, {where}{loss}{why}"


def refusals(refused: "Sequence[RefusedRow]") -> list[str]:
    """A line for each problem of the rows that became no run."""
    lines: list[str] = []
    for each in refused:
        where = row(each["row"], each["options"])
        lines += [
            f"{where}: refused: {error['message']} [{error['code']}]" for error in each["errors"]
        ]
        if hidden := each["num_errors"] - len(each["errors"]):
            lines.append(f"{where}: and {hidden} more")
    return lines


def row(number: int, options: Mapping[str, Any]) -> str:
    """``row 3 (learning_rate=0.01)``."""
    chosen = ", ".join(f"{name}={value(each)}" for name, each in options.items())
    return f"row {number} ({chosen})" if chosen else f"row {number}"


def value(given: Any) -> str:
    """A value as it would be typed, cut where it is long."""
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}…"
