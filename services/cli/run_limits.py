"""The limits of a run on the command line: --max-cost, --max-gpu-hours and --deadline."""

import math
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output

if TYPE_CHECKING:
    from services.client.shapes import Run, RunPatch

MaxCost = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT",
        help="Pause the run, with a checkpoint, when it has cost so much in the currency of the "
        "service; none: no limit.",
        show_default=False,
    ),
]
MaxGpuHours = Annotated[
    str | None,
    typer.Option(
        metavar="HOURS", help="The same after so many hours on a GPU.", show_default=False
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="The same at this time, such as 2026-12-01T18:00 (of this machine's time zone).",
        show_default=False,
    ),
]

_NONE: Final = "none"


def parse_limits(
    *, max_cost: str | None, max_gpu_hours: str | None, deadline: str | None
) -> "RunPatch":
    """The limits that were given, as the service takes them; raises typer.BadParameter."""
    limits: RunPatch = {}
    if max_cost is not None:
        cost = _number(max_cost, "--max-cost")
        limits["max_cost_micros"] = None if cost is None else int(cost * 1_000_000)
    if max_gpu_hours is not None:
        hours = _number(max_gpu_hours, "--max-gpu-hours")
        limits["max_gpu_hours"] = None if hours is None else float(hours)
    if deadline is not None:
        limits["deadline"] = _moment(deadline)
    return limits


def limit_facts(run: "Run") -> dict[str, object]:
    """The run's limits in words, by name; None for each that it has not."""
    cost, hours, deadline = (
        run.get("max_cost_micros"),
        run.get("max_gpu_hours"),
        run.get("deadline"),
    )
    return {
        "max cost": None
        if cost is None
        else f"{cost / 1e6:.2f} {run.get('currency') or ''}".strip(),
        "max hours": None if hours is None else f"{hours:g}",
        "deadline": output.when(deadline),
    }


def _number(text: str, option: str) -> Decimal | None:
    if text == _NONE:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal(0)
    if not number.is_finite() or not 0 < float(number) < math.inf:
        raise typer.BadParameter(f"{text} is not a number above 0, or none", param_hint=option)
    return number


def _moment(text: str) -> str | None:
    if text == _NONE:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        message = f"{text} is not a time such as 2026-12-01T18:00, or none"
        raise typer.BadParameter(message, param_hint="--deadline") from None
