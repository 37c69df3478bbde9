"""`reverie runs metrics`: numbers of a run as a table, as CSV, or as JSON."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation
from services.cli.run_options import RunId

if TYPE_CHECKING:
    from services.client.run_output_shapes import Metrics

_COLUMNS: Final = ("metric", "first_step", "last_step", "count", "mean", "min", "max")
_BARS: Final = "▁▂▃▄▅▆▇█"


def metrics(
    ctx: typer.Context,
    run_id: RunId,
    *,
    names: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="At most ten; ? lists what the run has.")
    ] = "loss",
    points: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="At most so many bins of steps.")
    ] = 20,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV only.")] = False,
    as_json: output.Json = False,
) -> None:
    """Show loss, learning rate and other numbers of a run over its steps.

    A step that was taken again after a failure counts once. Evaluation losses and CLIP scores
    follow, where the run measures them.
    """
    invocation: Invocation = ctx.obj
    wanted = [] if names == "?" else names.split(",")
    with invocation.connect() as client:
        found = client.get_metrics(run_id, names=",".join(wanted) or None, points=points)
    unknown = [series["name"] for series in found["series"] if not any(series["count"])]
    if as_json:
        output.print_json(found)
    elif not wanted:
        for name in found["names"]:
            output.print_facts({"metric": name})
    elif unknown and found["names"]:
        raise CommandError(
            f"{run_id} has no {', '.join(unknown)}; it has {', '.join(found['names'])}"
        )
    elif as_csv:
        output.print_csv([_COLUMNS, *_rows(found)])
    else:
        for series in found["series"]:
            output.print_note(f"{series['name']}  {sparkline(series['mean'])}")
        output.print_table(
            [name.upper().replace("_", " ") for name in _COLUMNS],
            [["-" if cell is None else _short(cell) for cell in row] for row in _rows(found)],
        )
        _print_evaluations(found)
        _print_clip_scores(found)


def _rows(found: "Metrics") -> list[list[object]]:
    return [
        [series["name"], *values]
        for series in found["series"]
        for values in zip(
            series["first_step"],
            series["last_step"],
            series["count"],
            series["mean"],
            series["min"],
            series["max"],
            strict=True,
        )
    ]


def _print_evaluations(found: "Metrics") -> None:
    measured = found.get("evaluations", [])  # an API of before has none
    if not measured:
        return
    output.print_note(f"evaluation loss  {sparkline([each['mean'] for each in measured])}")
    rows = [[each["step"], each["mean"], each["low"], each["high"]] for each in measured]
    output.print_table(
        ["STEP", "MEAN", "LOW", "HIGH"],
        [["-" if cell is None else _short(cell) for cell in row] for row in rows],
    )


def _print_clip_scores(found: "Metrics") -> None:
    scored = found.get("clip_scores", [])  # an API of before has none
    if not scored:
        return
    for weights in dict.fromkeys(each["weights"] for each in scored):
        means = [each["mean"] for each in scored if each["weights"] == weights]
        output.print_note(f"CLIP score of {weights} weights  {sparkline(means)}")
    rows = [
        [e["step"], e["weights"], e["mean"], e["min"], e["max"], e["similarity_mean"]]
        for e in scored
    ]
    output.print_table(
        ["STEP", "WEIGHTS", "MEAN", "MIN", "MAX", "SIMILARITY"],
        [["-" if cell is None else _short(cell) for cell in row] for row in rows],
    )


def _short(cell: object) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def sparkline(values: list[float | None]) -> str:
    """The curve in one line of text; a space where there is no value."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    scaled = ((value - low) / span if value is not None and span else 0.0 for value in values)
    bars = (_BARS[min(int(part * len(_BARS)), len(_BARS) - 1)] for part in scaled)
    return "".join(
        bar if value is not None else " " for bar, value in zip(bars, values, strict=True)
    )
