"""Reading a process's metrics as Prometheus does."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


def scrape(port: int) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Sample name → labels, sorted → value."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def value_of(port: int, name: str, **labels: str) -> float | None:
    """One sample; None where there is none (yet), or no answer."""
    try:
        return scrape(port).get(name, {}).get(tuple(sorted(labels.items())))
    except httpx.TransportError:
        return None
