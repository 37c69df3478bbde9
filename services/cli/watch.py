"""Follow a run until it rests: a live panel on a terminal, else a line for each change."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from services.cli import output
from services.cli.watch_state import WatchState
from services.cli.watch_view import plain_line, render

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.run_output_shapes import Event
    from services.client.shapes import Run


def watch_run(client: "Client", run_id: str, console: Console) -> "Run":
    """Show a run until it is over or paused, and return it.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a line that says that the run continues.
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
        text = f"{run_id} continues. Watch it again: reverie runs watch {run_id}"
        console.print(output.text_of(text), soft_wrap=True)
        raise
    run = client.get_run(run_id)
    if run["status"] == "paused":
        text = f"{run_id} is paused. Let it go on: reverie runs resume {run_id}"
        console.print(output.text_of(text), soft_wrap=True)
    return run


def _events(client: "Client", run_id: str) -> "Iterator[Event]":
    """All events, until the run is over or rests in ``paused``; earlier pauses are passed."""
    for event in client.stream_events(run_id):
        yield event
        if event.type == "run.paused" and client.get_run(run_id)["status"] == "paused":
            return


def _follow_live(client: "Client", state: WatchState, console: Console) -> None:
    # Eight frames a second, however many events come: a finished run sends all of them at once.
    with Live(console=console, get_renderable=lambda: render(state), refresh_per_second=8) as live:
        for event in _events(client, state.run_id):
            state.apply(event)
        state.settle(client.get_run(state.run_id))
        live.refresh()


def _follow_plainly(client: "Client", state: WatchState, console: Console) -> None:
    for warning in state.warnings:
        console.print(output.text_of(f"warning: {warning}"), soft_wrap=True)
    shown = set(state.warnings)
    for event in _events(client, state.run_id):
        step_before = state.step
        state.apply(event)
        lines = [f"warning: {text}" for text in state.warnings if text not in shown]
        shown.update(state.warnings)
        if (line := plain_line(state, event, step_before)) is not None:
            lines.append(line)
        for line in lines:
            console.print(output.text_of(line), soft_wrap=True)
