"""``reverie up``: the whole service on this machine, until Ctrl-C."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from services.embedded.console import LogFollower
from services.embedded.home import DEFAULT_HOME
from services.embedded.service import EmbeddedService

_WELCOME = """
[bold]Reverie is up[/bold] at [link={url}]{url}[/link]

  keys      in {home}/service.json (only you can read it); the commands find theirs there
  logs      {home}/logs
  next      reverie runs submit --config examples/demo --watch
            reverie runs submit --help
  stop      Ctrl-C: the trainer writes a checkpoint first; press it again to force
"""


def up(
    trainers: Annotated[int, typer.Option(min=1, help="Trainer processes on this machine.")] = 1,
    port: Annotated[
        int | None, typer.Option(help="Port of the API; 8484, or a free one if that is taken.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write logs to files only.")] = False,
) -> None:
    """Run the whole service on this machine until Ctrl-C: servers, API and workers.

    Everything is kept under REVERIE_HOME (~/.reverie). Set REVERIE_DATABASE_URL,
    REVERIE_BROKER_URL and REVERIE_OBJECTS_URL to use your own servers instead of the embedded ones.
    """
    console = Console(stderr=True)
    home = Path(os.environ.get("REVERIE_HOME") or DEFAULT_HOME).expanduser()
    service = EmbeddedService(
        home,
        port=port,
        trainers=trainers,
        report=lambda text: console.print(f"[yellow]up[/] {escape(text)}"),
    )
    follower = None if quiet else LogFollower(console, service.home.logs)
    raise typer.Exit(run_until_signal(service, console, follower))


def run_until_signal(
    service: EmbeddedService, console: Console, follower: LogFollower | None
) -> int:
    """Run the service until a signal or a failure; returns the exit status, 0 or 1."""
    asked = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            service.ask_to_stop()
        else:
            service.force()

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    console.print(f"starting Reverie in {service.home.path} …")
    service.begin()
    try:
        _serve(service, console, follower)
    finally:
        service.stop()
        if follower is not None:
            follower.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if service.failure is not None and asked == 0:
        console.print(f"[red]up[/] {escape(str(service.failure))}", highlight=False)
        return 1
    console.print("stopped")
    return 0


def _serve(service: EmbeddedService, console: Console, follower: LogFollower | None) -> None:
    """Wait until the service ends by itself, or is asked to stop."""
    followed = welcomed = False
    while service.is_running() and not service.is_stopping():
        service.wait(0.2)
        if follower is not None and not followed and service.has_fresh_logs():
            followed = True
            follower.start()
        if service.is_up() and not welcomed:
            welcomed = True
            text = _WELCOME.format(url=service.url, home=service.home.path)
            console.print(text, highlight=False, soft_wrap=True)
    if service.is_stopping():
        console.print("stopping: trainers first, for their checkpoint …")
