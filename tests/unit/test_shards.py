import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support import damage
from trainer_core.data import shards
from trainer_core.data.index import ShardDescription, ShardSpec, TextEntry
from trainer_core.data.shard_files import shard_name, write_note
from trainer_core.data.shards import ShardFolder, write_shard
from trainer_core.errors import ShardCorruptError, ShardMissingError


def description(*texts: str) -> ShardDescription:
    entries = tuple(TextEntry(text=text) for text in texts)
    spec = ShardSpec(kind="text", encoder={"base_digest": "0" * 64}, entries=entries)
    return ShardDescription(digest=spec.digest(), kind="text", spec=spec)


def tensors(rows: int, start: int = 0) -> dict[str, torch.Tensor]:
    number = torch.arange(start, start + rows, dtype=torch.float32)
    return {
        "t5": number.view(-1, 1, 1).expand(-1, 4, 2),
        "llama": number.view(-1, 1, 1, 1).expand(-1, 3, 4, 2),
        "pooled": number.view(-1, 1).expand(-1, 5).bfloat16(),
    }


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    shard = description("a", "b", "c")
    size = write_shard(tmp_path / shard_name(shard.digest), "text", tensors(3))

    row = ShardFolder(tmp_path).read_row(shard, 1)

    assert size == (tmp_path / shard_name(shard.digest)).stat().st_size
    assert {name: tuple(t.shape) for name, t in row.items()} == {
        "t5": (1, 4, 2),
        "llama": (1, 3, 4, 2),
        "pooled": (1, 5),
    }
    assert row["pooled"].dtype == torch.bfloat16
    assert all(bool((tensor == 1).all()) for tensor in row.values())


def test_nothing_but_the_shard_is_left_in_the_folder(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.safetensors", "text", tensors(1))

    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "one", "text", tensors(2))
    write_shard(tmp_path / "two", "text", tensors(2))

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_beyond_the_spec_is_an_index_error(tmp_path: Path, row: int) -> None:
    shard = description("a", "b")
    write_shard(tmp_path / shard_name(shard.digest), "text", tensors(2))

    with pytest.raises(IndexError, match="2 rows"):
        ShardFolder(tmp_path).read_row(shard, row)


def test_a_shard_with_other_rows_than_its_spec_is_corrupt(tmp_path: Path) -> None:
    shard = description("a", "b")
    write_shard(tmp_path / shard_name(shard.digest), "text", tensors(3))

    with pytest.raises(ShardCorruptError, match="3 rows, its spec 2"):
        ShardFolder(tmp_path).read_row(shard, 0)


def test_a_shard_of_another_kind_is_corrupt(tmp_path: Path) -> None:
    shard = description("a")
    save_file({"mean": torch.zeros(1)}, tmp_path / shard_name(shard.digest))

    with pytest.raises(ShardCorruptError, match="holds"):
        ShardFolder(tmp_path).read_row(shard, 0)


@pytest.mark.parametrize("how", [damage.truncate, damage.flip_last])
def test_bytes_that_are_not_those_of_the_note_are_never_read_and_deleted(
    tmp_path: Path, how: Callable[[Path], None]
) -> None:
    shard = description("a", "b")
    path = tmp_path / shard_name(shard.digest)
    write_shard(path, "text", tensors(2))
    write_note(path, hashlib.sha256(path.read_bytes()).hexdigest())
    ShardFolder(tmp_path).read_row(shard, 1)
    how(path)

    with pytest.raises(ShardCorruptError) as caught:
        ShardFolder(tmp_path).read_row(shard, 1)

    assert caught.value.retryable
    assert caught.value.message.startswith(f"cache shard {path.name} ")
    assert not path.exists()


def test_a_file_is_compared_with_its_note_once_by_all_threads_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = description("a")
    path = tmp_path / shard_name(shard.digest)
    write_shard(path, "text", tensors(1))
    write_note(path, hashlib.sha256(path.read_bytes()).hexdigest())
    read: list[Path] = []
    monkeypatch.setattr(shards, "damage_of", lambda file, note: read.append(file))
    folder = ShardFolder(tmp_path)

    for each in (folder, folder.beside(lambda _: None)):
        each.read_row(shard, 0)
        each.read_row(shard, 0)

    assert read == [path]


@pytest.mark.parametrize("kept_bytes", [0, 4, 40, 300])
def test_a_truncated_shard_is_corrupt(tmp_path: Path, kept_bytes: int) -> None:
    shard = description("a")
    path = tmp_path / shard_name(shard.digest)
    write_shard(path, "text", tensors(1))
    path.write_bytes(path.read_bytes()[:kept_bytes])

    with pytest.raises(ShardCorruptError):
        ShardFolder(tmp_path).read_row(shard, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": torch.zeros(1, 2, 3, 4)},
        {"mean": torch.zeros(1, 2, 3, 4), "std": torch.zeros(2, 2, 3, 4)},
        {"mean": torch.zeros(1, 2, 3), "std": torch.zeros(1, 2, 3)},
    ],
)
def test_tensors_of_another_form_are_not_written(
    tmp_path: Path, wrong: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"shard holds|disagree|dimensions"):
        write_shard(tmp_path / "x", "latents", wrong)

    assert not list(tmp_path.iterdir())


def test_reading_waits_for_the_file_and_says_so(tmp_path: Path) -> None:
    shard = description("a")
    asked = threading.Event()
    folder = ShardFolder(tmp_path, wait_s=30, while_waiting=lambda missing: asked.set())

    def deliver() -> None:
        assert asked.wait(30)
        write_shard(tmp_path / shard_name(shard.digest), "text", tensors(1, start=7))

    supplier = threading.Thread(target=deliver)
    supplier.start()
    row = folder.read_row(shard, 0)
    supplier.join()

    assert row["t5"].unique().item() == 7


def test_a_shard_that_never_comes_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ShardMissingError, match=r"did not arrive in 0\.1 s"):
        ShardFolder(tmp_path, wait_s=0.1).read_row(description("a"), 0)


def test_the_waiting_callback_can_end_the_wait(tmp_path: Path) -> None:
    def stop(missing: ShardDescription) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ShardFolder(tmp_path, while_waiting=stop).read_row(description("a"), 0)


def test_more_shards_than_may_be_open_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_OPEN_SHARDS", 2)
    described = [description(text) for text in "abcde"]
    for number, shard in enumerate(described):
        write_shard(tmp_path / shard_name(shard.digest), "text", tensors(1, start=number))

    folder = ShardFolder(tmp_path)
    read = [folder.read_row(shard, 0)["t5"].unique().item() for shard in described * 2]

    assert read == [0, 1, 2, 3, 4] * 2
    assert len(folder._open) == 2


def test_a_row_outlives_its_file(tmp_path: Path) -> None:
    shard = description("a")
    path = tmp_path / shard_name(shard.digest)
    write_shard(path, "text", tensors(1, start=3))
    row = ShardFolder(tmp_path).read_row(shard, 0)
    path.unlink()

    assert row["llama"].unique().item() == 3
