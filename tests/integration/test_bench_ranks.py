"""The benchmark of several ranks runs at tiny size; its seconds mean nothing there."""

import json
import os
from pathlib import Path

import pytest

from tests.support.forking import TRAINING, start_module


@pytest.mark.deep
def test_it_writes_a_row_of_each_case(tmp_path: Path) -> None:
    argv = ["--standalone", "--nproc-per-node", "2", "-m", "benchmarks.ranks", "--tiny"]
    argv += [
        "--output",
        str(tmp_path / "rows.jsonl"),
        "--cases",
        "512-8bit,512-bf16",
        "--steps",
        "2",
    ]
    env = {**os.environ, **dict(TRAINING.env)}
    with (tmp_path / "log").open("wb") as log:
        process = start_module("torch.distributed.run", argv, env=env, output=log, kind=TRAINING)

    assert process.wait(240) == 0, (tmp_path / "log").read_text()[-2000:]

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["case"] for row in rows] == ["512-8bit", "512-bf16"]
    for row in rows:
        assert row["ranks"] == 2
        assert row["together"]["steps"] == row["alone"]["steps"] == 2
        assert row["scaling"] > 0
        assert row["gradient_bytes"] > 0
