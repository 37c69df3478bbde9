"""A growing output file in pieces: whole lines, nothing twice, and little of a flood."""

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.ledger import LOG_FIRST_BYTES, LOG_NEWEST_BYTES, LOG_PIECE_BYTES, Printed
from services.trainer.log_shipper import shown
from services.trainer.output_pieces import OutputPieces


def same(text: str) -> str:
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


def rest(pieces: OutputPieces) -> Iterator[Printed]:
    while (piece := pieces.next(is_complete=True)) is not None:
        yield piece


def append(path: Path, body: bytes) -> None:
    with path.open("ab") as file:
        file.write(body)


def test_pieces_are_whole_lines_and_the_end_needs_no_line_feed(path: Path) -> None:
    pieces = OutputPieces(path, same)
    assert pieces.next(is_complete=False) is None
    append(path, b"one\ntw")
    assert pieces.next(is_complete=False) == Printed(start_byte=0, num_bytes=4, text="one\n")
    assert pieces.next(is_complete=False) is None
    append(path, b"o\n 10%\r 20%\r 3")
    assert pieces.next(is_complete=False) == Printed(
        start_byte=4, num_bytes=14, text="two\n 10%\r 20%\r"
    )
    assert pieces.next(is_complete=True) == Printed(start_byte=18, num_bytes=2, text=" 3")
    assert pieces.next(is_complete=True) is None


def test_whatever_is_printed_and_read_in_whatever_turns_is_there_once(path: Path) -> None:
    numbers = random.Random(1)
    pieces, found, whole = OutputPieces(path, same), [], ""
    for _ in range(200):
        words = ("é" * numbers.randrange(60_000), "\n", "a b ", "\U0001f600\r", "x" * 90)
        text = "".join(numbers.choices(words, k=numbers.randrange(4)))
        whole += text
        append(path, text.encode())
        if numbers.random() < 0.5 and (piece := pieces.next(is_complete=False)) is not None:
            found.append(piece)
    found += rest(pieces)
    # The reader was never far enough behind to leave anything out.
    assert "".join(piece.text for piece in found) == whole
    assert [piece.start_byte for piece in found[1:]] == [
        piece.start_byte + piece.num_bytes for piece in found[:-1]
    ]
    assert max(piece.num_bytes for piece in found) <= LOG_PIECE_BYTES


def test_a_line_that_is_too_long_ends_between_words(path: Path) -> None:
    append(path, b"word " * 20_000)
    first = OutputPieces(path, same).next(is_complete=False)
    assert first is not None
    assert LOG_PIECE_BYTES - 5 <= first.num_bytes <= LOG_PIECE_BYTES
    assert first.text.endswith("word ")


def test_bytes_that_are_no_text_are_shown_as_such(path: Path) -> None:
    append(path, b"a\xff\0b\n")
    (piece,) = rest(OutputPieces(path, same))
    assert (piece.num_bytes, piece.text) == (5, "a�b\n")


def test_of_a_flood_the_first_and_the_newest_bytes_are_read_and_the_disk_is_freed(
    path: Path,
) -> None:
    """The reader has one turn for each MiB that is printed."""
    pieces, found, used_bytes = OutputPieces(path, same), [], []
    line = b"%09d " + b"x" * 89 + b"\n"
    for number in range(100):
        lines = (line % each for each in range(number * 10_000, (number + 1) * 10_000))
        append(path, b"".join(lines))
        if (piece := pieces.next(is_complete=False)) is not None:
            found.append(piece)
        used_bytes.append(path.stat().st_blocks * 512)
    size_bytes = path.stat().st_size
    assert size_bytes == 100_000_000
    before_end = len(found)
    tracemalloc.start()
    found += rest(pieces)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    first = [piece for piece in found if piece.start_byte < LOG_FIRST_BYTES]
    assert sum(piece.num_bytes for piece in first) >= LOG_FIRST_BYTES
    assert first[-1].start_byte + first[-1].num_bytes <= LOG_FIRST_BYTES + LOG_PIECE_BYTES
    newest = [p for p in found if p.start_byte >= size_bytes - LOG_NEWEST_BYTES]
    assert sum(piece.num_bytes for piece in newest) > LOG_NEWEST_BYTES - LOG_PIECE_BYTES
    assert found[-1].text.endswith(f"{999_999:09d} {'x' * 89}\n")
    assert all(piece.text[9] == " " and piece.text.endswith("\n") for piece in found), "torn line"
    assert len(found) - before_end <= LOG_NEWEST_BYTES // LOG_PIECE_BYTES + 2
    assert peak_bytes < LOG_NEWEST_BYTES + (2 << 20)  # what the test itself keeps, and one piece
    assert max(used_bytes[10:]) < 16 << 20, "the space of what was read is freed"


def test_a_tenant_sees_no_secret_and_no_place_of_the_machine(tmp_path: Path) -> None:
    text = (
        f"open {tmp_path}/job.json /models/tiny rv_{'a' * 43} hf_{'b' * 34} postgresql://u:pw@db/x "
        "https://s3/x?X-Amz-Signature=abc"
    )
    assert shown(text, folders=[str(tmp_path), "/models"]) == (
        "open job.json tiny [redacted] [redacted] postgresql://[redacted]@db/x https://s3/x?[redacted]"
    )
