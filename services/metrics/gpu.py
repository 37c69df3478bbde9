"""Use of this machine's GPUs, asked of ``nvidia-smi`` at each scrape; no metrics without it."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_QUERY: Final = "index,utilization.gpu,memory.used,memory.total"
_TIMEOUT_S: Final = 3.0
_MIB: Final = 1 << 20


class GpuCollector(Collector):
    """A driver that does not answer in 3 s counts as no GPU, as does a value that is no number."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        use = GaugeMetricFamily(
            "reverie_gpu_use_ratio",
            "Share of the last sample period in which the GPU computed, 0 to 1.",
            labels=["gpu"],
        )
        used = GaugeMetricFamily(
            "reverie_gpu_memory_used_bytes", "Memory in use on the GPU.", labels=["gpu"]
        )
        total = GaugeMetricFamily("reverie_gpu_memory_bytes", "Memory of the GPU.", labels=["gpu"])
        for index, use_percent, used_mib, total_mib in _rows(_ask_driver()):
            use.add_metric([index], use_percent / 100)
            used.add_metric([index], used_mib * _MIB)
            total.add_metric([index], total_mib * _MIB)
        yield from (use, used, total)


def show_gpus() -> None:
    """Add the GPUs of this machine to the metrics of this process."""
    REGISTRY.register(GpuCollector())


def _ask_driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _rows(table: str) -> Iterator[tuple[str, float, float, float]]:
    for line in table.splitlines():
        index, *numbers = (part.strip() for part in line.split(","))
        try:
            use_percent, used_mib, total_mib = map(float, numbers)
        except ValueError:  # such as "[N/A]" on a GPU that is divided (MIG)
            continue
        yield index, use_percent, used_mib, total_mib
