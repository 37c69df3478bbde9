"""Metrics of tracing."""

from typing import Final

from prometheus_client import Counter

spans: Final = Counter(
    "reverie_spans_total",
    "Spans of traces by what became of them: sent, failed (the receiver did not take them) or"
    " dropped (too many waited).",
    ["outcome"],
)
