"""The alerts: each names metrics that exist, and a section of a runbook that exists."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import services.metrics.dependencies
import services.metrics.dispatching
import services.metrics.http
import services.metrics.work  # noqa: F401 - importing declares the metrics
from services.metrics.gpu import GpuCollector
from services.metrics.queue import (
    FailedRuns,
    OpenRuns,
    PendingRows,
    QueueCollector,
    QueueFigures,
    Workers,
)
from services.store.scoped_database import ROLE

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts" / "reverie.rules.yaml"
RUNBOOKS = ROOT / "deploy" / "runbooks"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}

ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]


def known_metrics() -> dict[str, set[str]]:
    """Name as Prometheus stores it → its labels."""
    queue = QueueCollector()
    queue.set(
        QueueFigures(
            runs=[
                OpenRuns(
                    gpu_class="", tenant_class="", status="queued", stage="", runs=1, oldest_s=1
                )
            ],
            workers=[Workers(kind="", gpu_class="", state="", reason="", workers=1)],
            pending=[PendingRows(kind="", rows=1, oldest_s=1)],
            failed=[FailedRuns(category="", code="", runs=1)],
        )
    )
    found: dict[str, set[str]] = {}
    for metric in REGISTRY._names_to_collectors.values():
        labels = set(getattr(metric, "_labelnames", ()))
        for family in metric.describe() if hasattr(metric, "describe") else []:
            for suffix in SUFFIXES.get(family.type, [""]):
                found[family.name + suffix] = labels
    for collector in (queue, GpuCollector()):
        for family in collector.collect():
            found[family.name] = set(family._labelnames)
    return found


def metrics_in(expression: str) -> dict[str, set[str]]:
    """Names of metrics in an expression → labels that it selects by."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"(reverie_\w+)(?:\{([^}]*)\})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
    return found


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_metric_and_label_of_an_alert_exists(alert: dict[str, Any]) -> None:
    known = known_metrics()
    used = metrics_in(alert["expr"])

    assert used
    for name, labels in used.items():
        assert name in known
        assert labels <= known[name], name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_section_in_a_runbook(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    text = (ROOT / path).read_text()
    section = text.partition(f"\n## {alert['alert']}\n")[2].partition("\n## ")[0]

    assert anchor == alert["alert"].lower()
    assert all(f"**{part}.**" in section for part in ("Means", "Look", "Do"))


def test_every_section_belongs_to_an_alert() -> None:
    sections = {
        heading
        for file in RUNBOOKS.glob("*.md")
        for heading in re.findall(r"^## (\w+)$", file.read_text(), flags=re.MULTILINE)
    }

    assert sections == {alert["alert"] for alert in ALERTS}


def test_runbooks_name_only_metrics_that_exist() -> None:
    text = "".join(file.read_text() for file in RUNBOOKS.glob("*.md"))
    names = {
        re.sub(r"_(bucket|count|sum|total)$", "", name) for name in re.findall(r"reverie_\w+", text)
    } - {ROLE}
    known = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in known_metrics()}

    assert names <= known


@pytest.mark.parametrize("task", ["check", "test"])
def test_promtool_agrees(task: str) -> None:
    """Only where promtool is installed (Debian's package prometheus)."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    file = RULES if task == "check" else RULES.with_name("reverie.test.yaml")

    done = subprocess.run(
        [promtool, task, "rules", file], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr
