"""``python -m services.api``: serve HTTP until SIGTERM, in several processes."""

import argparse
import functools
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from services.api.app import check_settings, create_app
from services.api.datasets.checker import Checker
from services.api.http.connections import MOST_REFUSED, Connections
from services.api.http.protocol import BoundedProtocol
from services.api.processes import fork_processes
from services.api.service import Service
from services.logs.setup import configure
from services.metrics.exposition import MetricsPortError, serve_metrics
from services.processes.core_dumps import forbid_core_dumps
from services.settings.env import Settings, SettingsError
from services.traces.setup import start_tracing

_GRACE_S: Final = 15
"""Time for open requests after SIGTERM."""
_CLOSE_S: Final = 3
"""And then for closing the connections of the process."""
_BACKLOG: Final = 2048
_OTHER_FILES: Final = 256


class ApiServer(uvicorn.Server):
    """Ends event streams first: uvicorn waits for open answers, and a stream may last for days."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.events.close()
        await super().shutdown(sockets)


def main(argv: Sequence[str]) -> int:
    """Serve HTTP. Status: 0 after a clean stop, 2 on wrong settings, 3 where it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m services.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8484)
    parser.add_argument("--processes", type=int, help="default: REVERIE_API_PROCESSES, or 2")
    args = parser.parse_args(argv)
    if args.processes is not None and args.processes < 1:
        parser.error(f"--processes has to be 1 or more: {args.processes}")
    forbid_core_dumps()
    try:
        settings = Settings.from_env(os.environ)
        configure("api", settings.log_format)
        check_settings(settings)
        _allow_open_files(settings.http.connections)
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    try:
        listening = _listen(args.host, args.port)
    except OSError as error:
        parser.exit(STARTUP_FAILURE, f"cannot listen on --host and --port: {error.strerror}\n")
    processes = args.processes or settings.api_processes
    checker = Checker()
    process = fork_processes(processes + 1, stop_s=_GRACE_S + _CLOSE_S)
    if process == processes:
        checker.serve()
    if process == 0:
        try:
            serve_metrics(settings.metrics_host, settings.metrics_port, are_shared=True)
        except MetricsPortError as error:
            parser.exit(2, f"{error}\n")
    try:
        start_tracing("api", settings.otlp_endpoint)
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    # uvicorn takes these signals while it serves, and raises them again once it has stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_well)
    make_server(settings, checker).run([listening])
    return 0


def _allow_open_files(connections: int) -> None:
    """Let this process open all files that it may; raises SettingsError where they are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + MOST_REFUSED + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"REVERIE_HTTP_CONNECTIONS is {connections}, and this process may open {hard} files: "
            f"lower it, or raise the limit to {needed} (ulimit -n)"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _end_well(_number: int, _frame: FrameType | None) -> None:
    """A requested stop ends with status 0, also before the server has started."""
    sys.exit(0)


def make_server(settings: Settings, checker: Checker) -> ApiServer:
    """The server, not yet running; raises SettingsError."""
    app = create_app(settings, checker.check)
    limits = settings.http
    config = uvicorn.Config(
        app,
        http=functools.partial(  # type: ignore[arg-type]  # uvicorn calls it, as it would the class
            BoundedProtocol, limits=limits, connections=Connections(limits)
        ),
        ws="none",
        timeout_keep_alive=math.ceil(limits.keep_alive_s),
        log_config=None,
        access_log=False,  # RequestEdge writes one line a request, without the query
        server_header=False,
        proxy_headers=bool(limits.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in limits.trusted_proxies],
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_S,
    )
    service: Service = app.state.service
    return ApiServer(config, service)
