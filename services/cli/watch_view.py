"""A watched run as text: the panel for a terminal, and single lines for everything else."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli import output
from services.cli.watch_state import STATUS_EVENTS, FixedLoss, WatchState, smoothed
from trainer_core.in_words import duration, speed
from trainer_core.process.event_texts import evaluation_text, scores_text

if TYPE_CHECKING:
    from services.client.run_output_shapes import Event

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS: Final = 32
_WARNINGS_SHOWN: Final = 3
_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "canceled": "yellow",
    "paused": "yellow",
    "running": "cyan",
}
_WORTH_A_LINE: Final = STATUS_EVENTS | {"run.started", "run.resumed"}
_LINES_A_RUN: Final = 10
"""Without a terminal: about how many of a run's steps get a line."""


def plain_line(state: WatchState, event: "Event", step_before: int) -> str | None:
    """The line for an event where there is no terminal; None for most steps.

    Args:
        state: after the event was applied.
        step_before: the run's step before the event was applied.
    """
    match event.type:
        case str(type_) if type_ in _WORTH_A_LINE:
            return _change_of_status(state, type_)
        case "stage":
            return _status(state)
    fact = _fact_of_step(state, event, step_before)
    return f"step {output.of_steps(event.step, state.max_steps)}: {fact}" if fact else None


def _fact_of_step(state: WatchState, event: "Event", step_before: int) -> str | None:
    match event.type:
        case "run.checkpoint":
            return "checkpoint saved"
        case "eval":
            return _measured_text(state, event)
        case "sample" if state.picture is not None and "path" in event.data:
            return f"picture {state.picture}"
        case "preview" if state.preview is not None:
            return f"preview of {_preview_text(state)}"
        case "step" if _is_worth_a_line(event.step, step_before, state.max_steps):
            facts = [_loss_text(_losses(state)), _speed_text(state)]
            return ", ".join(fact for fact in facts if fact)
    return None


def _preview_text(state: WatchState) -> str:
    """``samples/step-000100/cat….png: reverie runs samples run_… --preview FILE``."""
    return f"{state.preview}: reverie runs samples {state.run_id} --preview FILE"


def _measured_text(state: WatchState, event: "Event") -> str | None:
    if event.data.get("name") == "evaluation":
        return evaluation_text(event.step, event.data)
    if event.data.get("name") == "clip":
        return scores_text(event.data)
    if event.data.get("name") == "probe" and state.fixed_losses:
        return f"validation loss {_fixed_loss_text(state.fixed_losses)}"
    return None


def _change_of_status(state: WatchState, type_: str) -> str:
    reason = f": {state.reason}" if state.reason else ""
    notes = {"run.started": f" (attempt {state.attempt})", "run.resumed": " (resumed)"}
    return f"{_status(state)}{notes.get(type_, '')}{reason}"


def render(state: WatchState, busy: RenderableType = "") -> RenderableType:
    """The panel of a run; the same state always gives the same panel.

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
    if state.fixed_losses:
        grid.add_row("validation", _fixed_loss_text(state.fixed_losses))
    if state.evaluations:
        grid.add_row("evaluation", _evaluations_text(state.evaluations))
    for name, means in (("CLIP score", state.clip_scores), ("similarity", state.similarities)):
        for weights, scores in list(means.items()):
            grid.add_row(name, output.text_of(f"{_scores_text(scores)}, {weights} weights"))
    if state.picture is not None:
        grid.add_row("picture", output.text_of(state.picture))
    if state.preview is not None:
        grid.add_row("preview", output.text_of(_preview_text(state)))
    parts: list[RenderableType] = [grid]
    if state.reason:
        parts.append(output.text_of(state.reason, "red" if state.status == "failed" else "yellow"))
    parts += [output.text_of(f"! {text}", "yellow") for text in state.warnings[-_WARNINGS_SHOWN:]]
    if (hidden := len(state.warnings) - _WARNINGS_SHOWN) > 0:
        parts.append(Text(f"and {hidden} more: reverie runs show {state.run_id}", style="dim"))
    colour = _COLOURS.get(state.status, "dim")
    return Panel(Group(*parts), title=Text(state.run_id), border_style=colour, padding=(0, 1))


def sparkline(values: Sequence[float], width: int = _SPARKS) -> str:
    """At most ``width`` blocks, each the mean of its share, scaled from least to most."""
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
    text = output.text_of(_status(state), f"bold {_COLOURS.get(state.status, 'default')}")
    if state.attempt > 1:
        text.append(f"  attempt {state.attempt}", style="not bold dim")
    row = Table.grid(padding=(0, 1))
    row.add_row(text, "" if state.is_over else busy)
    return row


def _losses(state: WatchState) -> list[float]:
    """A copy: one thread draws the panel while another applies events."""
    return [loss for _, loss in list(state.losses)]


def _bar(state: WatchState) -> RenderableType:
    total = max(1, state.max_steps)
    row = Table.grid(padding=(0, 2))
    row.add_column(width=_SPARKS)
    row.add_column(no_wrap=True)
    done = min(1.0, state.step / total)
    bar = ProgressBar(total=total, completed=min(total, state.step), width=_SPARKS)
    row.add_row(bar, f"{output.of_steps(state.step, state.max_steps)}  {done:.0%}")
    return row


def _loss_text(losses: Sequence[float]) -> str:
    return f"loss {losses[-1]:.4f}, smoothed {smoothed(losses):.4f}" if losses else ""


def _speed_text(state: WatchState) -> str:
    steps_per_s, eta_s = state.steps_per_s, state.eta_s
    if not steps_per_s:
        return ""
    pace = speed(steps_per_s)
    return f"{pace}, {duration(eta_s)} left" if eta_s is not None else pace


def _fixed_loss_text(losses: Sequence[FixedLoss]) -> str:
    """``0.5121 → 0.4310 (-15.8 %)``, and the same for the held-out images where there are any."""
    first, last = losses[0], losses[-1]
    text = _change(first.mean, last.mean if len(losses) > 1 else None)
    if first.held_out_mean is not None:
        held_out = last.held_out_mean if len(losses) > 1 else None
        text += f", held out {_change(first.held_out_mean, held_out)}"
    return text


def _evaluations_text(evaluations: Sequence[tuple[int, float]]) -> str:
    """``0.5121 → 0.4310 (-15.8 %) at step 80, lowest 0.4302 at step 60``."""
    (_, first), (step, last) = evaluations[0], evaluations[-1]
    if len(evaluations) == 1:
        return f"{first:.4f} at step {step}"
    best_step, best = min(evaluations, key=lambda each: each[1])
    lowest = "the lowest" if best_step == step else f"lowest {best:.4f} at step {best_step}"
    return f"{_change(first, last)} at step {step}, {lowest}"


def _scores_text(scores: Sequence[tuple[int, float]]) -> str:
    """``0.2135 → 0.2841 at step 80``."""
    (_, first), (step, last) = scores[0], scores[-1]
    change = f"{first:.4f}" if len(scores) == 1 else f"{first:.4f} → {last:.4f}"
    return f"{change} at step {step}"


def _change(before: float, after: float | None) -> str:
    if after is None:
        return f"{before:.4f}"
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return f"{before:.4f} → {after:.4f}{share}"


def _is_worth_a_line(step: int, before: int, max_steps: int) -> bool:
    """The first step, the last one, and the first of each tenth of the run."""
    tenth = max(1, max_steps // _LINES_A_RUN)
    return before == 0 or step >= max_steps or step // tenth > before // tenth
