"""Serves the metrics of this process as Prometheus text, on a port of their own.

The port is not the API's, so tenants cannot read them. Every process has a registry of its own;
Prometheus adds them up.
"""

import prometheus_client


class MetricsPortError(Exception):
    """The port cannot be used; the message names the settings."""


def serve_metrics(host: str, port: int) -> None:
    """Answer ``GET /metrics`` in a thread until the process ends; does nothing where port is 0.

    Raises MetricsPortError.
    """
    if port == 0:
        return
    try:
        prometheus_client.start_http_server(port, host)
    except OSError as error:
        raise MetricsPortError(
            f"REVERIE_METRICS_PORT: {host}:{port} cannot be used ({error.strerror});"
            " give each process on a machine a port of its own, or set 0 to turn metrics off"
        ) from error
