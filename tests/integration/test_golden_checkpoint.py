"""Checkpoints that an older version wrote resume, and end with the bits that it ended with.

`tests/golden/<commit>/README.md` says how they were recorded.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import Event, shorten_texts, write_shards
from tests.support.zygote import Zygote
from trainer_core.base_models.describe import read_base_model
from trainer_core.data.index import DataIndex

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/*/job.json"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name} {case.name}")
def test_an_older_checkpoint_resumes_and_ends_with_the_same_bits(
    zygote: Zygote, tiny_folder: Path, shards: Path, tmp_path: Path, case: Path
) -> None:
    job, expected = (
        json.loads((case / f"{name}.json").read_text()) for name in ("job", "expected")
    )
    write_shards(DataIndex.model_validate(job["index"]), read_base_model(tiny_folder), shards)
    shorten_texts(shards)
    job |= {"base_model_dir": str(tiny_folder), "shards_dir": str(shards)}
    job |= {"output_dir": str(tmp_path / "output"), "resume_from": str(case / "checkpoint")}

    status, events = zygote.train(job, tmp_path)

    assert status == 0, (tmp_path / "output.log").read_text()
    is_same_machine = _cpu_model() == expected["cpu"] and not _other_environment(events)
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == len(expected["steps"])
    for event, recorded in zip(steps, expected["steps"], strict=True):
        found = {name: event[name] for name in recorded}
        assert found == (recorded if is_same_machine else pytest.approx(recorded, rel=1e-3))
    (evaluation,) = (event["losses"] for event in events if event["event"] == "eval")
    assert evaluation == (
        expected["evaluation"]
        if is_same_machine
        else pytest.approx(expected["evaluation"], rel=1e-3)
    )
    state = tmp_path / "output/checkpoints/step-00000006/state.safetensors"
    (weights,) = (tmp_path / "output/result").rglob("*.safetensors")
    for file, recorded_file in ((state, "final_state"), (weights, "result")):
        recorded = load_file(case / f"{recorded_file}.safetensors")
        _assert_same(recorded, load_file(file), exact=is_same_machine)


def _assert_same(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], *, exact: bool
) -> None:
    """Same names and types; the same bits, or on another machine nearly the same values."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.dtype is found[name].dtype, name
        if exact:
            assert torch.equal(value, found[name]), name
        else:
            torch.testing.assert_close(value, found[name], atol=1e-3, rtol=1e-2, msg=name)


def _other_environment(events: list[Event]) -> bool:
    """Whether the run warned that threads, torch or CPU features are not those of the recording."""
    return any(event.get("code") == "other_environment" for event in events)


def _cpu_model() -> str:
    """Name and a digest of the features: bits are compared only on a CPU that shares both."""
    facts = dict(
        line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines()
    )
    stripped = {name.strip(): value.strip() for name, value in facts.items()}
    flags = hashlib.sha256(stripped.get("flags", "").encode()).hexdigest()[:12]
    return f"{stripped.get('model name', 'unknown')} {flags}"
