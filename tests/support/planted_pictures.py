"""A folder of pictures with one file of each fault that people have in theirs."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageCms


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG file with the header of a picture of this size, and no pixels."""
    return _png(width, height, 8, b"")


def _png(width: int, height: int, bits: int, body: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


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


def plant_odd(folder: Path) -> None:
    """Pictures of 200 x 200 px that a run uses, each with another oddity; the names say which."""
    turned = Image.Exif()
    turned[0x0112] = 6
    _captioned(folder / "turned.jpg", noise(20, (200, 200)), exif=turned)
    _captioned(folder / "cmyk.jpg", noise(21, (200, 200)).convert("CMYK"))
    _write_deep(folder / "deep.png", noise(22, (200, 200)))
    frames = [noise(seed, (200, 200)) for seed in (23, 24)]
    _captioned(folder / "moving.webp", frames[0], save_all=True, append_images=frames[1:])
    _captioned(folder / "wide.png", noise(25, (200, 200)), icc_profile=wide_profile())
    _captioned(folder / "usual.png", noise(26, (200, 200)), icc_profile=usual_profile())
    clear = noise(27, (200, 200)).convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    _captioned(folder / "clear.png", clear)
    _captioned(folder / "opaque.png", noise(28, (200, 200)).convert("RGBA"))
    _captioned(folder / "again.jpg", noise(29, (200, 200)), quality=95)
    _captioned(folder / "again-smaller.jpg", noise(29, (160, 160)), quality=60)
    (folder / "copy.png").write_bytes((folder / "usual.png").read_bytes())
    (folder / "copy.txt").write_text("a picture")


def _write_deep(path: Path, image: Image.Image) -> None:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour."""
    lines = [
        b"\0"
        + b"".join(
            bytes((level, level)) for level in image.crop((0, y, image.width, y + 1)).tobytes()
        )
        for y in range(image.height)
    ]
    path.write_bytes(_png(image.width, image.height, 16, zlib.compress(b"".join(lines))))
    path.with_suffix(".txt").write_text("a picture")


def usual_profile() -> bytes:
    """sRGB, as Pillow's library writes it."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def wide_profile() -> bytes:
    """An ICC profile of version 2 with a green of more colour than sRGB's, and gamma 2.2."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    name = b"Wide test colours\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    # The colours of Adobe RGB (1998), adapted to D50.
    tags = {
        b"desc": described,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s4sI4sIIII",
        *(start + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12)),
        *(b"acsp", b"none", 0, b"none", 0, 0, 0, 0),
    )
    return head + fixed(0.9642, 1.0, 0.8249) + bytes(128 - 80) + table + body
