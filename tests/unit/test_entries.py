"""Entries as tensors: written, awaited, read, and checked at the first read."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support import damage
from trainer_core.data import entries
from trainer_core.data.entries import EntryFolder, encoded, write_entry
from trainer_core.data.entry_files import ReadEntry, entry_name, read_entry_file
from trainer_core.errors import ShardCorruptError, ShardMissingError

DIGEST = "0123abcd"


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "t5": torch.full((1, 4, 2), value),
        "llama": torch.full((1, 2, 4, 3), value).transpose(1, 2),
        "pooled": torch.full((1, 5), value).bfloat16(),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / entry_name(DIGEST)


def write(path: Path, value: float = 1.0) -> None:
    write_entry(path, encoded("text", tensors(value)))


def test_tensors_come_back_as_they_were_written(file: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    written = {
        "t5": torch.randn(1, 4, 2, generator=draw),
        "llama": torch.randn(1, 2, 4, 3, generator=draw).transpose(1, 2),  # not contiguous
        "pooled": torch.randn(1, 5, generator=draw).bfloat16(),
    }
    write_entry(file, encoded("text", written))

    read = EntryFolder(file.parent).read(DIGEST, "text")

    assert read.keys() == written.keys()
    for name, tensor in read.items():
        assert tensor.dtype is written[name].dtype
        assert torch.equal(tensor, written[name])


def test_the_same_tensors_have_the_same_bytes_in_any_order() -> None:
    one, other = tensors(), dict(reversed(tensors().items()))

    assert encoded("text", one) == encoded("text", other)
    assert encoded("text", one).sha256 != encoded("text", tensors(2.0)).sha256
    assert encoded("text", one).size_bytes == 4 * (8 + 24) + 2 * 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": torch.zeros(1, 2, 3, 4)},
        {"mean": torch.zeros(1, 2, 3, 4), "std": torch.zeros(2, 2, 3, 4)},
        {"mean": torch.zeros(1, 2, 3), "std": torch.zeros(1, 2, 3)},
        {"mean": torch.zeros(1, 2, 3, 4), "std": torch.zeros(1, 2, 3, 4), "x": torch.zeros(1)},
    ],
)
def test_tensors_of_another_form_are_refused(wrong: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"entry has|dimensions"):
        encoded("latents", wrong)


def test_an_entry_of_another_kind_is_corrupt(file: Path) -> None:
    write(file)

    with pytest.raises(ShardCorruptError, match=rf"{file.name}: a latents entry has \['mean', "):
        EntryFolder(file.parent).read(DIGEST, "latents")
    assert file.exists()  # it is whole: only this run expects something else of it


def test_a_file_of_another_program_is_corrupt(file: Path) -> None:
    save_file(tensors() | {"llama": torch.zeros(1, 4, 2, 3)}, file)

    with pytest.raises(ShardCorruptError, match=file.name):
        EntryFolder(file.parent).read(DIGEST, "text")


@pytest.mark.parametrize("how", [damage.truncate, damage.flip_last])
def test_a_damaged_file_is_never_read_and_deleted(file: Path, how: Callable[[Path], None]) -> None:
    write(file)
    folder = EntryFolder(file.parent)
    folder.read(DIGEST, "text")
    how(file)

    for again in (folder, EntryFolder(file.parent)):
        with pytest.raises(ShardCorruptError) as caught:
            again.read(DIGEST, "text")
        assert caught.value.retryable
        assert caught.value.message.startswith(f"cache entry {file.name} is damaged: ")
        assert not file.exists()
        write(file)
        how(file)


def test_a_file_is_compared_with_its_digest_once_by_all_threads_of_a_process(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file)
    compared: list[int] = []

    def compare(entry: ReadEntry) -> None:
        compared.append(len(entry.buffer))

    monkeypatch.setattr(ReadEntry, "damage", compare)
    folder = EntryFolder(file.parent)

    for each in (folder, folder.beside(lambda _: None)):
        each.read(DIGEST, "text")
        each.read(DIGEST, "text")

    assert compared == [file.stat().st_size]


def test_what_the_writer_has_compared_is_not_compared_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file)
    compared: list[int] = []
    monkeypatch.setattr(ReadEntry, "damage", lambda entry: compared.append(len(entry.buffer)))
    folder = EntryFolder(file.parent, are_checked=True)

    for each in (folder, folder.beside(lambda _: None)):
        assert each.read(DIGEST, "text").keys() == tensors().keys()
    damage.truncate(file)
    with pytest.raises(ShardCorruptError, match="is damaged"):
        folder.read(DIGEST, "text")

    assert not compared


def test_reading_waits_for_the_file_and_says_so(file: Path) -> None:
    asked = threading.Event()
    wanted: list[str] = []

    def ask(digest: str) -> None:
        wanted.append(digest)
        asked.set()

    def deliver() -> None:
        assert asked.wait(30)
        write(file, 7)

    folder = EntryFolder(file.parent, wait_s=30, while_waiting=lambda _: None)
    beside = folder.beside(ask)
    supplier = threading.Thread(target=deliver)
    supplier.start()
    read = beside.read(DIGEST, "text")
    supplier.join()

    assert read["t5"].unique().item() == 7
    assert set(wanted) == {DIGEST}
    assert file.is_file()
    assert folder.waited_s == beside.waited_s > 0


def test_an_entry_that_is_there_is_not_waited_for(file: Path) -> None:
    write(file)
    folder = EntryFolder(file.parent, wait_s=0, while_waiting=lambda _: pytest.fail("waited"))

    folder.read(DIGEST, "text")

    assert folder.waited_s == 0


def test_an_entry_that_never_comes_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ShardMissingError, match=rf"{DIGEST} did not arrive in 0\.1 s"):
        EntryFolder(tmp_path, wait_s=0.1).read(DIGEST, "text")


def test_the_waiting_callback_can_end_the_wait(tmp_path: Path) -> None:
    def stop(digest: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EntryFolder(tmp_path, while_waiting=stop).read(DIGEST, "text")


def test_a_file_that_is_deleted_before_it_is_opened_is_waited_for_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor deletes files to make room for others, and fetches them again when asked."""
    write(file, 3)
    late = [True]

    def read(path: Path) -> ReadEntry:
        if late.pop():
            path.unlink()
        return read_entry_file(path)

    def fetch_again(digest: str) -> None:
        write(file, 3)
        late.append(False)

    monkeypatch.setattr(entries, "read_entry_file", read)

    found = EntryFolder(file.parent, while_waiting=fetch_again).read(DIGEST, "text")

    assert found["t5"].unique().item() == 3
    assert not late


def test_tensors_outlive_their_file_and_leave_it_closed(file: Path) -> None:
    write(file, 3)
    read = EntryFolder(file.parent).read(DIGEST, "text")
    assert str(file) not in Path("/proc/self/maps").read_text()
    file.unlink()

    assert read["llama"].unique().item() == 3
