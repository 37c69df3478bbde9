"""What an attempt takes of its disk besides cache entries."""

from pathlib import Path

import pytest

from services.trainer.scratch_use import ScratchUse
from trainer_core.process.events import Event, EventName


def event(name: EventName, **data: int) -> Event:
    return Event(name=name, step=1, seq=1, t_s=0.0, data=data)


@pytest.fixture
def shards_dir(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    (tmp_path / "output" / "checkpoints").mkdir(parents=True)
    (tmp_path / "job.json").write_bytes(b"j" * 10)
    return tmp_path / "shards"


def use_of(
    shards_dir: Path, checkpoint_bytes: int | None = None, *, adapter_files: int = 2
) -> ScratchUse:
    return ScratchUse(
        shards_dir.parent,
        shards_dir,
        adapter_files=adapter_files,
        checkpoint_bytes=checkpoint_bytes,
    )


def test_room_is_kept_for_the_checkpoints_that_may_wait(shards_dir: Path) -> None:
    full_rank = use_of(shards_dir, adapter_files=0)
    full_rank.note(event("plan", trainable_parameters=100))
    assert full_rank.bytes_taken() == 10 + 2 * 1600
    use = use_of(shards_dir)
    use.note(event("plan", trainable_parameters=100))
    assert use.bytes_taken() == 10 + 2 * 2400
    use.note(event("checkpoint", size_bytes=700))
    assert use.bytes_taken() == 10 + 2 * 700
    use.note(event("plan", trainable_parameters=100))  # less exact than a checkpoint
    assert use.bytes_taken() == 10 + 2 * 700

    folder = shards_dir.parent / "output" / "checkpoints" / "step-00000001"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"c" * 2000)
    assert use.bytes_taken() == 10 + 2000


def test_a_run_that_resumes_knows_the_size_from_its_checkpoint(shards_dir: Path) -> None:
    use = use_of(shards_dir, checkpoint_bytes=5000)
    use.note(event("plan", trainable_parameters=1))
    assert use.bytes_taken() == 10 + 2 * 5000
