"""Metrics of the HTTP API."""

from collections.abc import MutableMapping
from typing import Any, Final

from prometheus_client import Counter, Histogram

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

request_seconds: Final = Histogram(
    "reverie_http_request_seconds",
    "Time from a request's head to the head of its answer, by route and status.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
problems: Final = Counter(
    "reverie_http_problems_total",
    "Answers with a problem document, by its code: refusals by quota, rate and size, and errors.",
    ["code"],
)
_UNKNOWN_ROUTE: Final = "unknown"


def observe(scope: MutableMapping[str, Any], status: int, duration_s: float) -> None:
    """Count an answer under the template of its route, such as ``/v1/runs/{run_id}``.

    Args:
        scope: of the ASGI request.
    """
    route = getattr(scope.get("route"), "path_format", _UNKNOWN_ROUTE)
    method = scope["method"] if scope["method"] in _METHODS else "other"
    request_seconds.labels(method=method, route=route, status=str(status)).observe(duration_s)
