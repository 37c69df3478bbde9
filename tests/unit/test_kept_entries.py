"""Small entries that stay in memory, up to a limit."""

from pathlib import Path

import pytest
import torch

from trainer_core.data.entries import EntryFolder, encoded, write_entry
from trainer_core.data.entry_files import entry_name
from trainer_core.data.kept_entries import MOST_BYTES, KeptEntries
from trainer_core.errors import ShardMissingError
from trainer_core.process import host_memory
from trainer_core.process.host_memory import host_bytes

PLENTY = 1 << 30


def latents(cells: int) -> dict[str, torch.Tensor]:
    return {name: torch.rand(1, 16, cells, cells) for name in ("mean", "std")}


def write(folder: Path, digest: str, cells: int = 8) -> None:
    write_entry(folder / entry_name(digest), encoded("latents", latents(cells)))


def is_kept(entries: EntryFolder, folder: Path, digest: str) -> bool:
    """Whether it is there without its file, which is deleted."""
    (folder / entry_name(digest)).unlink()
    try:
        entries.read(digest, "latents")
    except ShardMissingError:
        return False
    return True


def test_a_small_entry_is_read_once_by_all_threads_of_a_process(tmp_path: Path) -> None:
    write(tmp_path, "ab")
    entries = EntryFolder(tmp_path, wait_s=0, kept_bytes=PLENTY)
    first = entries.beside(lambda _: None).read("ab", "latents")

    assert is_kept(entries, tmp_path, "ab")
    again = entries.read("ab", "latents")
    assert all(torch.equal(again[name], first[name]) for name in ("mean", "std"))


def test_nothing_is_kept_unless_memory_is_given(tmp_path: Path) -> None:
    write(tmp_path, "ab")
    entries = EntryFolder(tmp_path, wait_s=0)
    entries.read("ab", "latents")

    assert not is_kept(entries, tmp_path, "ab")


def test_large_entries_are_not_kept() -> None:
    kept = KeptEntries(PLENTY)
    kept.keep("exact", latents(8), MOST_BYTES)
    kept.keep("large", latents(8), MOST_BYTES + 1)

    assert kept.find("exact") is not None
    assert kept.find("large") is None


@pytest.mark.parametrize("edge_px", [512, 1024])
def test_pictures_of_512_px_are_kept_and_those_of_1024_are_not(
    tmp_path: Path, edge_px: int
) -> None:
    write(tmp_path, "ab", edge_px // 8)
    entries = EntryFolder(tmp_path, wait_s=0, kept_bytes=PLENTY)
    entries.read("ab", "latents")

    assert is_kept(entries, tmp_path, "ab") is (edge_px == 512)


def test_the_first_entries_that_fit_are_kept(tmp_path: Path) -> None:
    digests = [f"{number:02x}" for number in range(40)]
    for digest in digests:
        write(tmp_path, digest)
    one_bytes = 2 * 16 * 8 * 8 * 4
    limit_bytes = 20 * one_bytes
    entries = EntryFolder(tmp_path, wait_s=0, kept_bytes=limit_bytes)

    for _ in range(2):  # a second epoch counts nothing twice
        for digest in digests:
            entries.read(digest, "latents")

    kept = [is_kept(entries, tmp_path, digest) for digest in digests]
    assert kept == sorted(kept, reverse=True)
    # Objects take memory, too.
    assert limit_bytes // 2 < sum(kept) * one_bytes < limit_bytes


@pytest.mark.parametrize(
    ("text", "expected"), [("4096\n", 4096), ("max\n", None), (f"{2**63 - 4096}\n", None)]
)
def test_a_container_has_what_its_limit_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None
) -> None:
    monkeypatch.setattr(host_memory, "_LIMITS", (tmp_path / "missing",))
    machine_bytes = host_bytes()
    limit = tmp_path / "memory.max"
    limit.write_text(text)
    monkeypatch.setattr(host_memory, "_LIMITS", (tmp_path / "missing", limit))

    assert host_bytes() == (expected or machine_bytes)
    lines = Path("/proc/meminfo").read_text().splitlines()
    total_kib = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert machine_bytes == total_kib << 10
