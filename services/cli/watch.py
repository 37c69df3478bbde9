"""A run, live: a panel that moves on a terminal, a line for each change elsewhere."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.watch_state import Probe, WatchState, smoothed

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.shapes import Event, Run

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS: Final = 32
_WARNINGS_SHOWN: Final = 3
_COLOURS: Final = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}
_LINES_A_RUN: Final = 10
"""Without a terminal, steps are told about this often."""


def watch_run(client: "Client", run_id: str, console: Console) -> "Run":
    """Show a run until it is over, and return it.

    Raises:
        KeyboardInterrupt: Ctrl-C; it has been said that the run goes on.
        ClientError: the service refuses, or cannot be reached any more.
    """
    run = client.get_run(run_id)
    state = WatchState(run_id=run_id, max_steps=run["max_steps"])
    for warning in run["warnings"]:
        state.warn(str(warning))
    try:
        if console.is_terminal:
            _follow_live(client, state, console)
        else:
            _follow_plainly(client, state, console)
    except KeyboardInterrupt:
        text = f"{run_id} goes on without you. Watch it again: reverie runs watch {run_id}"
        console.print(Text(text), soft_wrap=True)
        raise
    return client.get_run(run_id)


def _follow_live(client: "Client", state: WatchState, console: Console) -> None:
    # Eight frames a second whatever the number of events: a finished run's history comes at once.
    with Live(console=console, get_renderable=lambda: render(state), refresh_per_second=8) as live:
        for event in client.stream_events(state.run_id):
            state.apply(event)
        state.settle(client.get_run(state.run_id))
        live.refresh()


def _follow_plainly(client: "Client", state: WatchState, console: Console) -> None:
    for warning in state.warnings:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)
    told = set(state.warnings)
    for event in client.stream_events(state.run_id):
        before = state.step
        state.apply(event)
        lines = [f"warning: {text}" for text in state.warnings if text not in told]
        told.update(state.warnings)
        if (line := plain_line(state, event, before)) is not None:
            lines.append(line)
        for line in lines:
            console.print(Text(line), soft_wrap=True)


def plain_line(state: WatchState, event: "Event", step_before: int) -> str | None:
    """What an event is worth without a terminal; None for most steps.

    Args:
        state: with the event taken in.
        step_before: where the run was before it.
    """
    where = f"step {event.step}/{state.max_steps}"
    match event.type:
        case "run.checkpoint":
            return f"{where}: checkpoint saved"
        case str(type_) if type_.startswith("run."):
            reason = f": {state.reason}" if state.reason else ""
            attempt = f" (attempt {state.attempt})" if type_ == "run.started" else ""
            return f"{_status(state)}{attempt}{reason}"
        case "stage":
            return _status(state)
        case "eval" if event.data.get("name") == "probe" and state.probes:
            return f"{where}: probe loss {_probe_text(state.probes)}"
        case "step" if _is_worth_a_line(event.step, step_before, state.max_steps):
            facts = [_loss_text(_losses(state)), _speed_text(state)]
            return f"{where}: {', '.join(fact for fact in facts if fact)}"
    return None


def render(state: WatchState, busy: RenderableType = "") -> RenderableType:
    """The panel of a run; the same state gives the same picture.

    Args:
        busy: shown beside the status of a run that is not over.
    """
    losses = _losses(state)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("status", _status_line(state, busy))
    grid.add_row("steps", _bar(state))
    if losses:
        line = Text(f"{_loss_text(losses).removeprefix('loss ')}  ")
        line.append(sparkline(losses), style="cyan")
        grid.add_row("loss", line)
    if speed := _speed_text(state):
        grid.add_row("speed", speed)
    if state.checkpoint_step:
        grid.add_row("saved", f"step {state.checkpoint_step}")
    if state.probes:
        grid.add_row("probe", _probe_text(state.probes))
    parts: list[RenderableType] = [grid]
    if state.reason:
        parts.append(Text(state.reason, style="red" if state.status == "failed" else "yellow"))
    parts += [Text(f"! {text}", style="yellow") for text in state.warnings[-_WARNINGS_SHOWN:]]
    if (hidden := len(state.warnings) - _WARNINGS_SHOWN) > 0:
        parts.append(Text(f"and {hidden} more: reverie runs show {state.run_id}", style="dim"))
    colour = _COLOURS.get(state.status, "dim")
    return Panel(Group(*parts), title=Text(state.run_id), border_style=colour, padding=(0, 1))


def sparkline(values: Sequence[float], width: int = _SPARKS) -> str:
    """Values as blocks between their least and their greatest, each the mean of its share."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * n // count for n in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BLOCKS[0] * count
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((mean - low) / (high - low) * top)] for mean in means)


def _status(state: WatchState) -> str:
    return f"{state.status}/{state.stage}" if state.stage else state.status


def _status_line(state: WatchState, busy: RenderableType) -> RenderableType:
    text = Text(_status(state), style=f"bold {_COLOURS.get(state.status, 'default')}")
    if state.attempt > 1:
        text.append(f"  attempt {state.attempt}", style="not bold dim")
    row = Table.grid(padding=(0, 1))
    row.add_row(text, "" if state.is_over else busy)
    return row


def _losses(state: WatchState) -> list[float]:
    """A copy: the panel is drawn by one thread while another takes events in."""
    return [loss for _, loss in list(state.losses)]


def _bar(state: WatchState) -> RenderableType:
    total = max(1, state.max_steps)
    row = Table.grid(padding=(0, 2))
    row.add_column(width=_SPARKS)
    row.add_column(no_wrap=True)
    done = min(1.0, state.step / total)
    bar = ProgressBar(total=total, completed=min(total, state.step), width=_SPARKS)
    row.add_row(bar, f"{state.step}/{state.max_steps}  {done:.0%}")
    return row


def _loss_text(losses: Sequence[float]) -> str:
    return f"loss {losses[-1]:.4f}, smoothed {smoothed(losses):.4f}" if losses else ""


def _speed_text(state: WatchState) -> str:
    steps_per_s, eta_s = state.steps_per_s, state.eta_s
    if not steps_per_s:
        return ""
    slow = steps_per_s < 0.5
    speed = f"{1 / steps_per_s:.2f} s/step" if slow else f"{steps_per_s:.2f} steps/s"
    return f"{speed}, {duration(eta_s)} left" if eta_s is not None else speed


def _probe_text(probes: Sequence[Probe]) -> str:
    """``0.5121 → 0.4310 (-15.8 %)`` and the same over what was held out."""
    first, last = probes[0], probes[-1]
    text = _change(first.mean, last.mean if len(probes) > 1 else None)
    if first.held_out_mean is not None:
        held_out = last.held_out_mean if len(probes) > 1 else None
        text += f", held out {_change(first.held_out_mean, held_out)}"
    return text


def _change(before: float, after: float | None) -> str:
    if after is None:
        return f"{before:.4f}"
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return f"{before:.4f} → {after:.4f}{share}"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _is_worth_a_line(step: int, before: int, max_steps: int) -> bool:
    """The first step, the last one, and the first of every tenth between."""
    tenth = max(1, max_steps // _LINES_A_RUN)
    return before == 0 or step >= max_steps or step // tenth > before // tenth
