"""Serves the metrics of this process as Prometheus text, on a port of their own.

The port is not the API's, so tenants cannot read them. Every process has a registry of its own;
Prometheus adds them up. Only the processes of the API share one port, and one of them adds up.
"""

import prometheus_client
from prometheus_client.multiprocess import MultiProcessCollector


class MetricsPortError(Exception):
    """The port cannot be used; the message names the settings."""


def serve_metrics(host: str, port: int, *, are_shared: bool = False) -> None:
    """Answer ``GET /metrics`` in a thread until the process ends; does nothing where port is 0.

    Args:
        are_shared: the sums of all processes that share PROMETHEUS_MULTIPROC_DIR.

    Raises MetricsPortError.
    """
    if port == 0:
        return
    registry = prometheus_client.REGISTRY
    if are_shared:
        registry = prometheus_client.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no types for it
    try:
        prometheus_client.start_http_server(port, host, registry)
    except OSError as error:
        raise MetricsPortError(
            f"REVERIE_METRICS_PORT: {host}:{port} cannot be used ({error.strerror});"
            " give each process on a machine a port of its own, or set 0 to turn metrics off"
        ) from error
