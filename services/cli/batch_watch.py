"""Follow the runs of a batch to their ends: a table on a terminal, else a line for each change."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli import batch_view, output
from services.client.retry import Retry
from services.domain.states import OVER

if TYPE_CHECKING:
    from services.client.batch_shapes import ComparedRun, Comparison
    from services.client.client import Client

_POLL: Final = Retry(tries=1, first_wait_s=0.5, limit_s=5.0)
"""A pause that grows while nothing changes."""
_COLOURS: Final = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}
_LINES_A_RUN: Final = 10


def watch_batch(client: "Client", batch_id: str, console: Console) -> "Comparison":
    """Show a batch until all its runs are over, and return them.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a line that says that the batch continues.
        ClientError: the service refuses, or cannot be reached any more.
    """
    try:
        if console.is_terminal:
            return _follow_live(client, batch_id, console)
        return _follow_plainly(client, batch_id, console)
    except KeyboardInterrupt:
        text = f"{batch_id} continues. Watch it again: reverie batches watch {batch_id}"
        console.print(output.text_of(text), soft_wrap=True)
        raise


def _states(client: "Client", batch_id: str) -> "Iterator[Comparison]":
    """The batch, again and again, until it is over; the last one is its end."""
    quiet = 0
    state = client.compare_batch(batch_id)
    while True:
        yield state
        if all(run["status"] in OVER for run in state["runs"]):
            return
        time.sleep(_POLL.wait_s(quiet + 1, None))
        before, state = state, client.compare_batch(batch_id)
        quiet = quiet + 1 if state == before else 0


def _follow_live(client: "Client", batch_id: str, console: Console) -> "Comparison":
    state: Comparison | None = None
    with Live(console=console, auto_refresh=False) as live:
        for state in _states(client, batch_id):
            live.update(table(state), refresh=True)
    assert state is not None
    return state


def _follow_plainly(client: "Client", batch_id: str, console: Console) -> "Comparison":
    shown: dict[int, object] = {}
    state: Comparison | None = None
    for state in _states(client, batch_id):
        for run in state["runs"]:
            stand = _stand(run)
            if shown.get(run["row"]) != stand:
                shown[run["row"]] = stand
                console.print(output.text_of(batch_view.line(run)), soft_wrap=True)
    assert state is not None
    return state


def _stand(run: "ComparedRun") -> tuple[str, str | None, int]:
    """What of a run is worth a new line."""
    tenth = max(1, run["max_steps"] // _LINES_A_RUN)
    return run["status"], run["stage"], run["step"] // tenth


def table(state: "Comparison") -> Table:
    """A line for each run; on a narrow terminal its options are cut, and nothing else."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ROW", "STATUS", "STEP", "LOSS"):
        shown.add_column(name, no_wrap=True)
    for name in batch_view.heads(state["options"]):
        shown.add_column(_cut(name))
    for run in state["runs"]:
        chosen = batch_view.values(run["options"], state["options"])
        status, step, loss = batch_view.progress(run)
        coloured = Text(status, style=_COLOURS.get(status, ""))
        shown.add_row(str(run["row"]), coloured, step, loss, *map(_cut, chosen))
    return shown


def _cut(text: str) -> Text:
    shown = output.text_of(text)
    shown.no_wrap, shown.overflow = True, "ellipsis"
    return shown
