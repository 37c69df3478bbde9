"""``python -m services.api``: serve HTTP until SIGTERM."""

import argparse
import os
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Final

import structlog
import uvicorn

from services.api.app import create_app
from services.api.service import Service
from services.logs.setup import configure
from services.metrics.exposition import MetricsPortError, serve_metrics
from services.settings.env import Settings, SettingsError

log = structlog.get_logger(__name__)

_GRACE_S: Final = 15


class ApiServer(uvicorn.Server):
    """Ends event streams first: uvicorn waits for open answers, and a stream may last for days."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.events.close()
        await super().shutdown(sockets)


def main(argv: Sequence[str]) -> int:
    """Serve HTTP. Status: 0 after a clean stop, 1 where it cannot start, 2 on wrong settings."""
    parser = argparse.ArgumentParser(prog="python -m services.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8484)
    args = parser.parse_args(argv)
    try:
        settings = Settings.from_env(os.environ)
        configure("api", settings.log_format)
        serve_metrics(settings.metrics_host, settings.metrics_port)
        server = make_server(settings, host=args.host, port=args.port)
    except (SettingsError, MetricsPortError) as error:
        parser.exit(2, f"{error}\n")
    # uvicorn raises the signal again once it has stopped; a requested stop must end with status 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore_signal)
    server.run()
    return 0 if server.started else 1


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Ignore a signal that arrives after the server has stopped."""


def make_server(settings: Settings, *, host: str, port: int) -> ApiServer:
    """The server, not yet running; raises SettingsError."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # RequestEdge writes one line a request, without the query
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    service: Service = app.state.service
    return ApiServer(config, service)
