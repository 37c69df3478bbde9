"""A folder of pictures with one file of each fault that people have in theirs."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG file with the header of a picture of this size, and no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture of coloured blots; each seed is another one, and each size the same one."""
    small = Image.frombytes("RGB", (6, 6), struct.pack("<108B", *_levels(seed)))
    return small.resize(size, Image.Resampling.BICUBIC)


def _levels(seed: int) -> list[int]:
    state, levels = seed * 2_654_435_761 + 1, []
    for _ in range(108):
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        levels.append(state >> 56)
    return levels


def _cut(path: Path) -> None:
    whole = io.BytesIO()
    noise(1, (200, 200)).save(whole, "JPEG")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])


def _captioned(path: Path, image: Image.Image, **options: object) -> None:
    image.save(path, **options)
    path.with_suffix(".txt").write_text("a picture")


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "cut.jpg": _cut,
    "empty.png": Path.touch,
    "bomb.png": lambda path: path.write_bytes(png_that_claims(20_000, 20_000)),
    "page.jpg": lambda path: path.write_bytes(b"<!doctype html><html>not found</html>"),
}
"""Name → writes a picture that cannot be decoded or is too large to be."""


def plant_unusable(folder: Path) -> None:
    """Pictures that a run leaves out, each for another reason, into a folder of others."""
    for name, write in UNUSABLE.items():
        write(folder / name)
        (folder / name).with_suffix(".txt").write_text("a picture")
    _captioned(folder / "latin.jpg", noise(2, (200, 200)))
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    _captioned(folder / "tiny.png", noise(3, (8, 8)))
    noise(4, (200, 200)).save(folder / "silent.png")  # without a caption
