"""Metrics that are computed: stages of an attempt, and what nvidia-smi prints."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.metrics.gpu import GpuCollector
from services.metrics.progress import AttemptProgress


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_steps_are_counted_once_and_stages_timed() -> None:
    now_s = 0.0
    steps = sample("reverie_steps_total")
    training = sample("reverie_attempt_stage_seconds_sum", stage="training")
    progress = AttemptProgress(from_step=10, clock=lambda: now_s)

    progress.note("stage", 0, {"stage": "loading"})
    now_s = 5.0
    progress.note("stage", 10, {"stage": "training"})
    now_s = 6.0
    progress.note("stage", 10, {"stage": "training", "timings": {}})  # told again
    progress.note("step", 11, {})
    progress.note("checkpoint", 11, {})
    progress.note("step", 13, {})
    now_s = 9.0
    progress.enter(None)

    assert sample("reverie_steps_total") - steps == 3
    assert sample("reverie_attempt_stage_seconds_sum", stage="training") - training == 4


def _driver(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_gpus_are_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(tmp_path, "echo '0, 87, 18432, 143771'; echo '1, [N/A], 0, 143771'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    found = {
        each.name: {s.labels["gpu"]: s.value for s in each.samples}
        for each in GpuCollector().collect()
    }

    assert found["reverie_gpu_use_ratio"] == {"0": 0.87}
    assert found["reverie_gpu_memory_used_bytes"] == {"0": 18432 << 20}


@pytest.mark.parametrize("script", ["exit 9", "true"])
def test_a_driver_that_fails_shows_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    _driver(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert [s for each in GpuCollector().collect() for s in each.samples] == []
