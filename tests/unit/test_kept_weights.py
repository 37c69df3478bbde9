"""Kept weights: an entry is whole or is not there, whatever happens while it is written."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.waiting import wait_until
from trainer_core.weights.headers import StoredTensor
from trainer_core.weights.kept import KeptWeights
from trainer_core.weights.transfer import Read, read_tensors

TENSORS = {"a": torch.arange(1000.0), "b": torch.arange(7, dtype=torch.int8)}
SIZE_BYTES = 4007


@pytest.fixture
def kept(tmp_path: Path) -> KeptWeights:
    return KeptWeights(folder=tmp_path / "kept", limit_bytes=10 * SIZE_BYTES)


def found(kept: KeptWeights, key: str) -> dict[str, StoredTensor]:
    """The entry, once it is published."""
    return wait_until(lambda: kept.find(key), what="the entry")


def test_an_entry_is_found_with_its_checksums(kept: KeptWeights) -> None:
    assert kept.find("key") is None

    assert kept.keep("key", TENSORS) is None

    stored = found(kept, "key")
    assert stored.keys() == TENSORS.keys()
    assert all(each.crc32 is not None for each in stored.values())
    values = {name: torch.empty_like(tensor) for name, tensor in TENSORS.items()}
    read_tensors([Read(stored=stored[n], into=values[n]) for n in values], torch.device("cpu"))
    assert all(torch.equal(values[name], tensor) for name, tensor in TENSORS.items())
    assert kept.find("other") is None


KEEP = """
import sys, time, torch
from pathlib import Path
from trainer_core.weights.kept import KeptWeights
kept = KeptWeights(folder=Path(sys.argv[1]), limit_bytes=1 << 20)
print(kept.keep("key", {"a": torch.arange(1000.0)}), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("place", ["weights.before_manifest", "weights.before_rename"])
def test_a_process_killed_while_it_writes_leaves_no_entry(kept: KeptWeights, place: str) -> None:
    env = {**os.environ, "REVERIE_ENV": "test", "FAULT_AT": f"{place}=kill"}

    killed = subprocess.run(
        [sys.executable, "-c", KEEP, str(kept.folder)], env=env, timeout=60, check=False
    )

    assert killed.returncode == -9
    assert [path.name for path in kept.folder.iterdir() if path.is_dir()] == [".draft"]
    assert kept.find("key") is None
    assert kept.keep("key", TENSORS) is None  # the lock and the draft are free again
    assert found(kept, "key").keys() == TENSORS.keys()
    assert not (kept.folder / ".draft").exists()


def test_one_process_writes_at_a_time(kept: KeptWeights) -> None:
    kept.folder.mkdir()
    with (kept.folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert kept.keep("key", TENSORS) == f"another process is writing to {kept.folder}"

    assert kept.keep("key", TENSORS) is None
    found(kept, "key")


def test_the_entry_that_was_not_read_for_longest_makes_room(kept: KeptWeights) -> None:
    small = KeptWeights(folder=kept.folder, limit_bytes=3 * SIZE_BYTES)
    for number, key in enumerate(("first", "second")):
        assert small.keep(key, TENSORS) is None
        found(small, key)
        os.utime(kept.folder / key, (number, number))
    assert small.find("first") is not None  # now it is the one read last

    assert small.keep("third", TENSORS) is None

    found(small, "third")
    assert small.find("second") is None
    assert small.find("first") is not None


def test_an_entry_above_the_limit_is_not_kept(kept: KeptWeights) -> None:
    assert kept.keep("key", TENSORS) is None
    found(kept, "key")
    tight = KeptWeights(folder=kept.folder, limit_bytes=SIZE_BYTES - 1)

    assert tight.keep("other", TENSORS) == "0 MiB are more than may be kept"

    assert kept.find("key") is not None
    assert tight.keep("another", {"a": torch.ones(1)}) is None  # the lock is free again


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptWeights(folder=tmp_path / "file" / "kept", limit_bytes=1 << 20)

    reason = kept.keep("key", TENSORS)

    assert reason is not None
    assert reason.startswith(f"{kept.folder} cannot be written: ")
    assert kept.find("key") is None


def test_what_is_deleted_while_it_is_read_is_read_to_its_end(kept: KeptWeights) -> None:
    assert kept.keep("key", TENSORS) is None
    stored = found(kept, "key")
    values = torch.empty(1000)

    def delete(_: torch.Tensor) -> None:
        kept.discard("key")

    reads = [Read(stored=stored["a"], then=delete), Read(stored=stored["a"], into=values)]
    read_tensors(reads, torch.device("cpu"))

    assert torch.equal(values, TENSORS["a"])
    assert kept.find("key") is None


def test_reading_an_entry_does_not_wait_for_one_that_is_written(kept: KeptWeights) -> None:
    assert kept.keep("key", TENSORS) is None
    found(kept, "key")
    with (kept.folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before_s = time.monotonic()

        assert kept.find("key") is not None

    assert time.monotonic() - before_s < 5
