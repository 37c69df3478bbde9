"""The file of a cache entry: complete or not there, and told apart from a damaged one."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.support import damage
from trainer_core.data.entry_files import (
    damage_of,
    entry_name,
    is_unchanged,
    read_entry_file,
    trust,
    write_entry_file,
)
from trainer_core.errors import InjectedFaultError
from trainer_core.weights.entries import BadHeaderError, new_header

TENSORS = {"first": ("F32", (1, 3)), "second": ("U8", (1, 2, 2))}
DATA = bytes(range(16))
SHA256 = hashlib.sha256(DATA).hexdigest()


def write(path: Path, data: Any = (DATA[:5], DATA[5:])) -> Path:
    write_entry_file(path, TENSORS, SHA256, data, durable=False)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / entry_name("ab12"))


def test_the_safetensors_library_reads_it(file: Path) -> None:
    with safe_open(file, framework="np") as opened:
        found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dict
        metadata = opened.metadata()

    assert found["first"].tobytes() + found["second"].tobytes() == DATA
    assert {name: (str(a.dtype), a.shape) for name, a in found.items()} == {
        "first": ("float32", (1, 3)),
        "second": ("uint8", (1, 2, 2)),
    }
    assert metadata["sha256"] == SHA256


def test_all_its_bytes_come_back(file: Path) -> None:
    found = read_entry_file(file)

    assert bytes(found.buffer) == file.read_bytes()
    for name, (dtype, shape) in TENSORS.items():
        assert (found.header.entries[name].dtype, found.header.entries[name].shape) == (
            dtype,
            shape,
        )
    places = [found.header.entries[name] for name in TENSORS]
    read = b"".join(found.buffer[p.offset_bytes : p.offset_bytes + p.size_bytes] for p in places)
    assert read == DATA
    assert found.damage() is None
    assert damage_of(file) is None


def test_all_bytes_of_a_large_entry_come_back(tmp_path: Path) -> None:
    data = os.urandom((3 << 20) + 7)  # not a whole number of pages
    path = tmp_path / entry_name("ab12")
    sha256 = hashlib.sha256(data).hexdigest()
    write_entry_file(path, {"all": ("U8", (1, len(data)))}, sha256, [data], durable=False)

    found = read_entry_file(path)

    assert bytes(found.buffer) == path.read_bytes()
    assert found.damage() is None
    damage.flip_last(path)
    assert read_entry_file(path).damage() is not None


@pytest.mark.parametrize("durable", [True, False])
def test_nothing_but_the_file_is_left_in_the_folder(tmp_path: Path, durable: bool) -> None:
    write_entry_file(tmp_path / "x.safetensors", TENSORS, SHA256, [DATA], durable=durable)

    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_data_that_ends_with_an_error_leaves_nothing(tmp_path: Path) -> None:
    def lost() -> Iterator[bytes]:
        yield DATA[:5]
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        raise ConnectionResetError("lost")

    with pytest.raises(ConnectionResetError):
        write(tmp_path / "x.safetensors", lost())

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("point", ["encode.before_write", "encode.before_rename"])
def test_an_error_before_the_rename_keeps_the_file_that_was_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = file.read_bytes()
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{point}=raise")

    with pytest.raises(InjectedFaultError):
        write(file, [bytes(16)])

    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("kept_bytes", [0, 4, 40, 150, -1])
def test_a_file_that_is_cut_off_is_refused(file: Path, kept_bytes: int) -> None:
    file.write_bytes(file.read_bytes()[:kept_bytes])

    with pytest.raises(BadHeaderError, match=file.name):
        read_entry_file(file)
    assert file.name in (damage_of(file) or "")
    assert not is_unchanged(file)


def test_every_flipped_bit_of_the_tensors_is_found(file: Path) -> None:
    whole = file.read_bytes()
    for position in range(len(whole) - len(DATA), len(whole)):
        body = bytearray(whole)
        body[position] ^= 1
        file.write_bytes(body)
        assert damage_of(file) == "its SHA-256 is not the one it was written with"


def test_a_file_without_a_digest_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(new_header(TENSORS, {}) + DATA)

    assert damage_of(path) is not None
    assert not is_unchanged(path)
    trust(path)
    assert not is_unchanged(path)


def test_a_file_is_unchanged_until_something_writes_to_it(file: Path) -> None:
    assert is_unchanged(file)

    damage.flip_last(file)

    assert not is_unchanged(file)


@pytest.mark.parametrize("change", [Path.touch, lambda path: os.utime(path, (5, 5))])
def test_a_file_that_was_read_is_trusted_again(file: Path, change: Callable[[Path], None]) -> None:
    change(file)
    assert not is_unchanged(file)

    trust(file)

    assert is_unchanged(file)


@pytest.mark.parametrize("mtime_s", ["9" * 5000, "-1", "soon", ""])
def test_a_time_that_is_none_is_not_trusted(tmp_path: Path, mtime_s: str) -> None:
    path = tmp_path / entry_name("ab12")
    path.write_bytes(new_header(TENSORS, {"sha256": SHA256, "mtime_s": mtime_s}) + DATA)

    assert damage_of(path) is None
    trust(path)
    assert not is_unchanged(path)


@pytest.mark.parametrize("call", [read_entry_file, damage_of, is_unchanged])
def test_a_file_that_is_gone_is_not_damaged(tmp_path: Path, call: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError):
        call(tmp_path / "gone.safetensors")
