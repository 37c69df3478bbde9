"""Safetensors files are read and written as the safetensors library does, and checked."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from trainer_core.errors import BaseModelError
from trainer_core.weights.headers import StoredTensor, header_of, read_header
from trainer_core.weights.transfer import Read, read_tensors, write_tensors

CPU = torch.device("cpu")
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
CHUNK_BYTES = 32 << 20


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """One tensor of each type in turn, of random bytes."""
    draw = torch.Generator().manual_seed(5)
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        dtype = DTYPES[number % len(DTYPES)]
        high = 2 if dtype is torch.bool else 256
        count = dtype.itemsize * int(torch.tensor(shape).prod())
        bytes_ = torch.randint(high, (count,), generator=draw, dtype=torch.uint8)
        tensors[name] = bytes_.view(dtype).view(shape)
    return tensors


SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (), "vector": (7,), "matrix": (5, 3), "cube": (2, 3, 4), "one": (1,), "none": (0, 3),
    "a.b.c": (16, 16), "ü": (3,), "d": (9, 9), "e": (2, 2), "f": (1, 1), "g": (33,), "h": (31, 2),
}  # fmt: skip


def read(stored: dict[str, StoredTensor]) -> dict[str, torch.Tensor]:
    """Half of the tensors into memory of their own, the others through reused memory."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[torch.Tensor], None]:
        return lambda value: found.update({name: value.clone()})

    reads = []
    for number, (name, each) in enumerate(stored.items()):
        if number % 2:
            found[name] = torch.empty(each.shape, dtype=each.dtype)
            reads.append(Read(stored=each, into=found[name]))
        else:
            reads.append(Read(stored=each, then=keep(name)))
    read_tensors(reads, CPU)
    return found


def write(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    header, places = header_of(tensors, file)
    file.write_bytes(header)
    return write_tensors(file, places, tensors)


def same_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    return (
        first.dtype is second.dtype
        and first.shape == second.shape
        and torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
    )


def test_tensors_of_every_type_and_shape_are_read(tmp_path: Path) -> None:
    tensors = random_tensors(SHAPES)
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})

    stored = read_header(file)
    found = read(stored)

    assert found.keys() == stored.keys() == tensors.keys()
    assert all(same_bytes(found[name], tensors[name]) for name in tensors)


def test_written_files_are_read_by_the_library(tmp_path: Path) -> None:
    tensors = random_tensors(SHAPES)
    file = tmp_path / "weights.safetensors"

    crc32s = write(file, tensors)

    loaded = load_file(file)
    assert loaded.keys() == tensors.keys() == crc32s.keys()
    assert all(same_bytes(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("over_bytes", [-1, 0, 1])
def test_a_tensor_of_several_chunks_is_whole(tmp_path: Path, over_bytes: int) -> None:
    values = torch.randint(256, (2 * CHUNK_BYTES + over_bytes,), dtype=torch.uint8)
    file = tmp_path / "weights.safetensors"
    crc32s = write(file, {"small": torch.ones(3), "large": values})

    stored = {
        name: StoredTensor(**{**fields(each), "crc32": crc32s[name]})
        for name, each in read_header(file).items()
    }

    assert torch.equal(read(stored)["large"], values)


def fields(stored: StoredTensor) -> dict[str, object]:
    return {name: getattr(stored, name) for name in StoredTensor.__slots__}


@pytest.mark.parametrize("position", [0, 500, CHUNK_BYTES + 3, -1])
def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path, position: int) -> None:
    values = torch.zeros(CHUNK_BYTES + 1000, dtype=torch.uint8)
    file = tmp_path / "weights.safetensors"
    crc32s = write(file, {"values": values})
    (place,) = read_header(file).values()
    offset = place.offset_bytes + position % len(values)
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\x01")

    assert read({"values": place})["values"].count_nonzero() == 1  # without a checksum
    with pytest.raises(BaseModelError, match="the bytes of values have changed"):
        read({"values": StoredTensor(**{**fields(place), "crc32": crc32s["values"]})})


def test_a_file_that_is_cut_off_after_its_header_was_read(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"values": torch.ones(1000)}, file)
    stored = read_header(file)
    with file.open("r+b") as stream:
        stream.truncate(2000)

    with pytest.raises(BaseModelError, match="cut off while values was read"):
        read(stored)


def test_the_first_error_ends_the_reading(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({f"t{number:03}": torch.ones(4) for number in range(200)}, file)
    called: list[str] = []

    def fail(_: torch.Tensor) -> None:
        called.append("")
        raise RuntimeError("no place")

    with pytest.raises(RuntimeError, match="no place"):
        read_tensors([Read(stored=each, then=fail) for each in read_header(file).values()], CPU)
    assert len(called) < 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]


def test_values_arrive_without_gradients(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"values": torch.ones(4)}, file)
    target = torch.nn.Parameter(torch.zeros(4))

    (stored,) = read_header(file).values()
    read_tensors([Read(stored=stored, then=target.copy_)], CPU)

    assert torch.equal(target.detach(), torch.ones(4))
    assert target.grad_fn is None


def header_file(folder: Path, header: object, data_bytes: int) -> Path:
    body = json.dumps(header).encode()
    file = folder / "weights.safetensors"
    file.write_bytes(len(body).to_bytes(8, "little") + body + bytes(data_bytes))
    return file


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data_bytes", "message"),
    [
        ([], 0, "no safetensors file"),
        ({"a": 3}, 0, "entry of a is not valid"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "entry of a is not valid"),
        ({"a": entry("F32", ["x"], 0, 4)}, 4, "entry of a is not valid"),  # type: ignore[list-item]
        ({"a": entry("F7", [1], 0, 4)}, 4, "a has the type F7"),
        ({"a": entry("F\0" * 99, [1], 0, 4)}, 4, r"the type F\\x00[F\\x0]+, which"),
        ({"a": {**entry("F32", [1], 0, 4), "dtype": [[]]}}, 4, "entry of a is not valid"),
        ({"a": entry("F32", [1] * 17, 0, 4)}, 4, "a has a shape that no tensor has"),
        ({"a": entry("F32", [10**4000] * 4000, 0, 4)}, 4, "a has a shape that no tensor has"),
        ({"a\0": entry("F32", [1], 0, 4)}, 4, r"cannot be shown: a\\x00"),
        ({"\ud800": entry("F32", [1], 0, 4)}, 4, r"cannot be shown: \\ud800"),
        ({"a" * 513: entry("F32", [1], 0, 4)}, 4, "longer than 512 characters, or cannot"),
        ({"a": entry("F32", [2], 0, 4)}, 4, "entry of a contradicts itself"),
        ({"a": entry("F32", [-1], 4, 0)}, 4, "entry of a contradicts itself"),
        ({"a": entry("F32", [1], -4, 0)}, 4, "entry of a contradicts itself"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, 4, "b does not follow"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12, "b does not follow"),
        ({"a": entry("F32", [2], 0, 8)}, 4, "cut off: a ends at byte"),
        ({"a": entry("F32", [1], 0, 4)}, 7, "3 bytes after its last tensor"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, header: object, data_bytes: int, message: str
) -> None:
    file = header_file(tmp_path, header, data_bytes)

    with pytest.raises(BaseModelError, match=message) as raised:
        read_header(file)
    assert str(file) in raised.value.message


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 260), st.integers(0, 255))
def test_no_damage_is_read_that_the_library_refuses(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, position: int, value: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.int8)}, file)
    whole = bytearray(file.read_bytes())
    whole[position % len(whole)] = value
    file.write_bytes(bytes(whole[: len(whole) - len(tail) // 2]) + tail[: len(tail) // 2])

    try:
        ours = {name: (each.shape, each.dtype) for name, each in read_header(file).items()}
    except BaseModelError:
        return
    try:
        with safe_open(file, framework="pt") as library:
            theirs = {n: library.get_tensor(n) for n in library.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, ValueError):
        pytest.fail(f"the library refuses {bytes(whole)!r}")
    assert ours == {name: (tuple(each.shape), each.dtype) for name, each in theirs.items()}


READ = """
import os, sys, time, torch
from pathlib import Path
from trainer_core.weights.headers import read_header
from trainer_core.weights.transfer import Read, read_tensors
def slow(_):
    os.write(1, b"reading\\n")  # in one piece, whichever thread writes
    time.sleep(0.2)
stored = read_header(Path(sys.argv[1])).values()
read_tensors([Read(stored=each, then=slow) for each in stored], torch.device("cpu"))
"""


def test_an_interrupt_ends_the_reading(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({f"t{number:03}": torch.ones(4) for number in range(2000)}, file)
    with subprocess.Popen(
        [sys.executable, "-c", READ, str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"

        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=20) == -signal.SIGINT


def test_an_interrupt_at_any_instruction_ends_all_threads(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({f"t{number}": torch.ones(4) for number in range(3)}, file)

    at = 1
    while interrupted_at(at, file):
        at += 1

    assert at > 50


def interrupted_at(last: int, file: Path) -> bool:
    """Whether the thread that waits has so many instructions; it is interrupted at this one."""
    seen, has_returned = 0, False
    late: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        nonlocal seen
        if not frame.f_code.co_qualname.startswith("_each_in_threads"):
            return None
        frame.f_trace_opcodes = True
        seen += event == "opcode"
        if seen == last and event == "opcode":
            raise KeyboardInterrupt
        return trace

    def then(_: torch.Tensor) -> None:
        if has_returned:
            late.append("read")

    def read() -> None:
        nonlocal has_returned
        reads = [Read(stored=each, then=then) for each in read_header(file).values()]
        sys.settrace(trace)
        with suppress(KeyboardInterrupt):
            read_tensors(reads, CPU)
        has_returned = True

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert not reader.is_alive(), f"interrupted at instruction {last}, it waits for ever"
    assert not late
    return seen >= last
