"""Images of users are decoded in full, or refused with an error that names the file."""

import io
import resource
import struct
from pathlib import Path

import pytest
from PIL import Image

from tests.support.planted_pictures import png_that_claims
from tests.unit.config_examples import import_small
from trainer_core.data.buckets import Geometry, geometry_of
from trainer_core.data.images import ImageFacts, inspect_image, load_rgb
from trainer_core.errors import BadImageError


def saved(tmp_path: Path, image: Image.Image, form: str, **options: object) -> Path:
    path = tmp_path / "picture"
    image.save(path, form, **options)
    return path


WHOLE = Geometry(resize_w=64, resize_h=64, crop_x=0, crop_y=0, width_px=64, height_px=64)
WRITTEN = ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "DIB", "PPM", "QOI",
           "DDS", "PCX", "SGI", "TGA", "MPO"]  # fmt: skip
"""Formats that Pillow writes in colour at any size."""


@pytest.mark.parametrize("form", WRITTEN)
def test_every_format_is_read(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path, Image.new("RGB", (64, 48), "red"), form)

    assert inspect_image(path, name="a") == ImageFacts(width_px=64, height_px=48)
    red, green, blue = load_rgb(path, WHOLE).getpixel((32, 32))
    assert red > 240
    assert max(green, blue) < 20


def test_a_layered_file_is_read_as_it_is_shown(tmp_path: Path) -> None:
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 48, 64, 8, 3)
    planes = b"".join(bytes([level]) * 64 * 48 for level in (255, 0, 0))
    path = tmp_path / "a.psd"
    path.write_bytes(head + bytes(12) + bytes(2) + planes)

    assert inspect_image(path, name="a") == ImageFacts(width_px=64, height_px=48)
    assert load_rgb(path, WHOLE).getpixel((32, 32)) == (255, 0, 0)


def test_a_format_without_colours_and_an_icon_are_read(tmp_path: Path) -> None:
    for form in ("XBM", "MSP"):
        path = saved(tmp_path, Image.new("1", (64, 48)), form)
        assert inspect_image(path, name="a") == ImageFacts(width_px=64, height_px=48)
    path = saved(tmp_path, Image.new("RGB", (48, 48), "red"), "ICO")
    assert inspect_image(path, name="a") == ImageFacts(width_px=48, height_px=48)


@pytest.mark.parametrize(
    ("form", "has_more"),
    [("GIF", True), ("WEBP", True), ("PNG", True), ("TIFF", True), ("AVIF", True), ("MPO", False)],
)
def test_further_frames_and_pages_are_noticed(tmp_path: Path, form: str, has_more: bool) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("white", "black")]
    path = saved(tmp_path, frames[0], form, save_all=True, append_images=frames[1:])

    assert inspect_image(path, name="a").has_more is has_more
    red, *_ = load_rgb(path, WHOLE).getpixel((32, 32))
    assert red > 240


@pytest.mark.parametrize("is_progressive", [False, True])
def test_a_cut_jpeg_is_found_wherever_it_ends(tmp_path: Path, is_progressive: bool) -> None:
    whole = io.BytesIO()
    image = Image.effect_noise((160, 120), 60).convert("RGB")
    image.save(whole, "JPEG", progressive=is_progressive)
    path = tmp_path / "cut.jpg"
    verdicts = set()
    for end in range(1, len(whole.getvalue()), 97):
        path.write_bytes(whole.getvalue()[:end])
        assert is_read(path) is is_decoded(path), end
        verdicts.add(is_read(path))
    path.write_bytes(whole.getvalue())
    assert is_read(path)
    assert False in verdicts


def is_read(path: Path) -> bool:
    try:
        inspect_image(path, name="x")
    except BadImageError:
        return False
    return True


def is_decoded(path: Path) -> bool:
    """Whether the image decodes at its full size."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_size_is_that_of_the_image_as_displayed(tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.new("RGB", (64, 48)), form, exif=exif)

    assert inspect_image(path, name="x") == ImageFacts(width_px=48, height_px=64)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Image.new("F", (8, 8), 0.5), "32 bits, and what is white among them is not known"),
        (Image.new("I", (8, 8), 1 << 20), "32 bits, and what is white among them is not known"),
        (Image.new("LAB", (8, 8)), r"L\*a\*b\*; save it in RGB"),
    ],
)
def test_pixels_without_a_known_white_are_refused(
    tmp_path: Path, image: Image.Image, why: str
) -> None:
    path = saved(tmp_path, image, "TIFF")

    for read in (lambda: inspect_image(path, name="x"), lambda: load_rgb(path, WHOLE, name="x")):
        with pytest.raises(BadImageError, match=f"^x: its .*{why}"):
            read()


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image = Image.new("RGB", (30, 20), "white")
    image.paste((255, 0, 0), (0, 0, 30, 10))
    path = saved(tmp_path, image, "JPEG", exif=exif, quality=100)
    whole = Geometry(resize_w=20, resize_h=30, crop_x=0, crop_y=0, width_px=20, height_px=30)

    assert inspect_image(path, name="a") == ImageFacts(width_px=20, height_px=30)
    shown = load_rgb(path, whole)
    left, right = shown.getpixel((1, 15)), shown.getpixel((18, 15))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[1] > 200  # white: the red upper half has turned to the right
    assert right[1] < 60


def test_the_crop_is_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), "white")
    image.paste((255, 0, 0), (100, 0, 200, 100))
    path = saved(tmp_path, image, "PNG")
    centre = Geometry(resize_w=192, resize_h=64, crop_x=64, crop_y=0, width_px=64, height_px=64)

    shown = load_rgb(path, centre)

    assert shown.size == (64, 64)
    assert shown.mode == "RGB"
    assert shown.getpixel((32, 32)) == (255, 0, 0)


def test_a_crop_equals_scaling_the_whole_image_and_then_cropping(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.effect_noise((500, 300), 80).convert("RGB"), "PNG")
    whole = Geometry(resize_w=250, resize_h=150, crop_x=0, crop_y=0, width_px=250, height_px=150)
    part = Geometry(resize_w=250, resize_h=150, crop_x=61, crop_y=43, width_px=128, height_px=64)

    cut = load_rgb(path, whole).crop((61, 43, 61 + 128, 43 + 64))

    assert load_rgb(path, part).tobytes() == cut.tobytes()


def test_a_very_long_image_needs_little_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("L", (1, 60_000)), "PNG")
    geometry = geometry_of(1, 60_000, BACKEND, 1024 * 1024, "")

    assert load_rgb(path, geometry).size == (geometry.width_px, geometry.height_px)


BACKEND = import_small().plan.identity.backends[0]


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGBA", (64, 64), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (64, 64), (0, 255)), (0, 0, 0)),
        (Image.new("1", (64, 64), 1), (255, 255, 255)),
        (Image.new("P", (64, 64), 0), (0, 0, 0)),
        (Image.new("I;16", (64, 64), 32768), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, image: Image.Image, pixel: tuple[int, int, int]
) -> None:
    path = saved(tmp_path, image, "PNG")
    whole = Geometry(resize_w=64, resize_h=64, crop_x=0, crop_y=0, width_px=64, height_px=64)

    assert load_rgb(path, whole).getpixel((32, 32)) == pixel


def test_a_jpeg_in_four_colours_becomes_rgb(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG")
    whole = Geometry(resize_w=64, resize_h=64, crop_x=0, crop_y=0, width_px=64, height_px=64)

    image = load_rgb(path, whole)

    red, green, blue = image.getpixel((32, 32))  # type: ignore[misc]
    assert image.mode == "RGB"
    assert red > 200
    assert max(green, blue) < 50


def test_of_an_animation_the_first_picture_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("white", "black")]
    path = tmp_path / "moving.webp"
    frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    whole = Geometry(resize_w=64, resize_h=64, crop_x=0, crop_y=0, width_px=64, height_px=64)

    assert load_rgb(path, whole).getpixel((32, 32)) == (255, 255, 255)


def test_the_content_counts_and_not_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (1, 1)).save(path, "JPEG")

    assert inspect_image(path, name="picture.png") == ImageFacts(width_px=1, height_px=1)


def test_a_machine_out_of_file_handles_is_not_the_pictures_fault(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (8, 8)), "PNG")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            inspect_image(path, name="1.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def cut_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 100).save(buffer, "JPEG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize(
    "body",
    [b"", b"not a picture", cut_jpeg(), png_that_claims(10, 10),
     png_that_claims(20_000, 20_000), png_that_claims(9_000, 9_000)],
    ids=["empty", "text", "cut", "hollow", "bomb", "over the cap"],
)  # fmt: skip
def test_a_file_that_is_not_an_image_is_named(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "secret-place.png"
    path.write_bytes(body)

    with pytest.raises(BadImageError, match=r"cats/1\.png") as caught:
        inspect_image(path, name="cats/1.png")

    assert caught.value.code == "bad_image"
    assert caught.value.category == "user"
    assert "secret-place" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "the file is empty"),
        (b"no picture", "not a picture of a known format; save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(12), "the file is a HEIC picture that is damaged"),
        (b"\0\0\0\x20ftypisom" + bytes(12), "the file is a video"),
        (b"PK\x03\x04" + bytes(12), "the file is a ZIP archive"),
        (b"\n<!DOCTYPE html><html>", "the file is a web page"),
        (b"<?xml version='1.0'?><svg/>", "the file is an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (cut_jpeg(), "the picture is damaged or cut off"),
    ],
)
def test_the_message_says_what_the_file_is(tmp_path: Path, body: bytes, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(body)

    with pytest.raises(BadImageError) as caught:
        inspect_image(tmp_path / "a.jpg", name="a.jpg")

    assert kind in caught.value.message
    assert caught.value.message.endswith("take it away")
