"""The arithmetic of the demo's closing line."""

from pathlib import Path
from typing import Any

import pytest

from services.cli.demo_report import cached_entries, fixed_losses, loss_drop, newest_checkpoint
from services.client.run_output_shapes import Event
from trainer_core.data.shard_files import shard_header


def test_the_drop_is_paired_and_in_units_of_its_error() -> None:
    drop = loss_drop([1.0, 2.0, 3.0, 4.0], [0.5, 1.6, 2.4, 3.5])

    assert drop.before == 2.5
    assert drop.after == pytest.approx(2.0)
    assert drop.drop_pct == pytest.approx(20.0)
    # differences 0.5, 0.4, 0.6, 0.5: mean 0.5, standard deviation 0.0816, error 0.0408
    assert drop.drop_sigma == pytest.approx(0.5 / (0.0066667**0.5 / 2), rel=1e-3)


def event(type_: str, step: int, data: dict[str, Any]) -> Event:
    return Event(id=step + 1, type=type_, step=step, data=data, created_at="2026-01-01T00:00:00Z")


def test_the_first_and_the_last_fixed_loss_count() -> None:
    events = [
        event("eval", step, {"name": name, "losses": [float(step)]})
        for step, name in ((0, "probe"), (5, "other"), (9, "probe"))
    ]

    assert fixed_losses(events) == ([0.0], [9.0])
    with pytest.raises(ValueError, match="1 fixed validation losses"):
        fixed_losses(events[:2])


def test_entries_are_counted_from_the_files_themselves(tmp_path: Path) -> None:
    for shard, tensor, number in (("a", "mean", 3), ("b", "mean", 2), ("c", "pooled", 8)):
        folder = tmp_path / "tenants" / "ten_1" / "cache" / shard
        folder.mkdir(parents=True)
        names = [f"{shard}{n}" for n in range(number)]
        header = shard_header(
            {name: {tensor: ("F32", (1,))} for name in names}, dict.fromkeys(names, "0" * 64)
        )
        (folder / "content.safetensors").write_bytes(header + bytes(4 * number))

    assert cached_entries(tmp_path, "mean") == 5
    assert cached_entries(tmp_path, "pooled") == 8


def test_a_checkpoint_without_manifest_does_not_count(tmp_path: Path) -> None:
    attempts = tmp_path / "tenants" / "ten_1" / "runs" / "run_1" / "attempts"
    for fence, step, whole in (("1", 10, True), ("2", 20, True), ("2", 30, False)):
        folder = attempts / fence / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "manifest.json").write_text("{}")

    assert newest_checkpoint(tmp_path, "run_1").name == "step-00000020"
