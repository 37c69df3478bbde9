"""HEIC, JPEG XL and AVIF pictures have the pixels that were put into them, turned once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself with Pillow
import pytest
from PIL import Image

from trainer_core.data.buckets import Geometry
from trainer_core.data.images import ImageFacts, inspect_image, load_rgb
from trainer_core.data.jpeg_xl import size_of_jpeg_xl
from trainer_core.errors import BadImageError

TURNED = Image.Exif()
TURNED[0x0112] = 6  # shown by turning it to the right


def colours(width: int, height: int) -> Image.Image:
    """Red grows to the right, green to the bottom; blue marks the top left corner."""
    down, across = np.mgrid[0:height, 0:width]
    blue = 200 * ((across < width / 2) & (down < height / 2))
    levels = np.stack([255 * across / (width - 1), 255 * down / (height - 1), blue], axis=-1)
    return Image.fromarray(levels.astype(np.uint8))


def write(image: Image.Image, path: Path, **options: object) -> Path:
    if path.suffix == ".heic":
        pillow_heif.from_pillow(image).save(path, **options)
    else:
        image.save(path, **options)
    return path


def whole(width: int, height: int) -> Geometry:
    return Geometry(
        resize_w=width, resize_h=height, crop_x=0, crop_y=0, width_px=width, height_px=height
    )


def mean_error(path: Path, expected: Image.Image) -> float:
    """Mean difference in levels of 255."""
    read = np.asarray(load_rgb(path, whole(*expected.size)), dtype=np.float64)
    return float(np.abs(read - np.asarray(expected, dtype=np.float64)).mean())


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        ("a.heic", {"quality": 95}, 3.0),
        ("a.avif", {"quality": 95}, 3.0),
        ("a.jxl", {"quality": 95}, 3.0),
        ("a.jxl", {"lossless": True}, 0.0),
        ("a.jxl", {"lossless": True, "use_container": True}, 0.0),
    ],
)
def test_the_pixels_are_those_that_were_saved(
    tmp_path: Path, name: str, options: dict[str, object], most: float
) -> None:
    picture = colours(96, 64)

    path = write(picture, tmp_path / name, **options)

    assert inspect_image(path, name=name) == ImageFacts(width_px=96, height_px=64)
    assert mean_error(path, picture) <= most


@pytest.mark.parametrize("name", ["a.heic", "a.avif"])
def test_an_orientation_is_applied_once(tmp_path: Path, name: str) -> None:
    path = write(colours(96, 64), tmp_path / name, quality=95, exif=TURNED.tobytes())

    assert inspect_image(path, name=name) == ImageFacts(width_px=64, height_px=96)
    assert mean_error(path, colours(96, 64).transpose(Image.Transpose.ROTATE_270)) <= 3


@pytest.mark.filterwarnings("ignore:Using JPEG reconstruction")
def test_a_turned_jpeg_that_was_packed_as_jpeg_xl_is_turned_once(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    colours(96, 64).save(photo, quality=95, subsampling=0, exif=TURNED)
    with Image.open(photo) as opened:
        opened.save(tmp_path / "a.jxl")  # keeps the JPEG's own data

    assert inspect_image(tmp_path / "a.jxl", name="a") == ImageFacts(width_px=64, height_px=96)
    assert mean_error(tmp_path / "a.jxl", load_rgb(photo, whole(64, 96))) == 0


def test_of_a_jpeg_xl_picture_the_codestream_says_how_it_is_turned_and_not_exif(
    tmp_path: Path,
) -> None:
    path = write(colours(96, 64), tmp_path / "a.jxl", lossless=True, exif=TURNED.tobytes())

    assert inspect_image(path, name="a") == ImageFacts(width_px=96, height_px=64)
    assert mean_error(path, colours(96, 64)) == 0


@pytest.mark.parametrize("use_container", [False, True])
@pytest.mark.parametrize(
    "size",
    [(8, 8), (256, 256), (96, 64), (1, 1), (300, 513), (9000, 3), (4, 70_000), (160, 90), (20, 10)],
)
def test_the_size_of_a_jpeg_xl_picture_is_in_its_header(
    tmp_path: Path, size: tuple[int, int], use_container: bool
) -> None:
    options = {"use_container": use_container, "exif": TURNED.tobytes() if use_container else None}
    path = tmp_path / "a.jxl"
    Image.new("L", size).save(path, effort=1, **options)

    with path.open("rb") as file:
        assert size_of_jpeg_xl(file) == size


def test_a_jpeg_xl_picture_that_claims_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jxl"
    side = 20_000 - 1
    bits = 0 | 2 << 1 | side << 3 | 1 << 21  # not small, a side of 18 bits, ratio 1:1
    path.write_bytes(b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(40))

    with pytest.raises(BadImageError, match=r"^a\.jxl: 20000 x 20000 is more than "):
        inspect_image(path, name="a.jxl")


@pytest.mark.parametrize("name", ["a.heic", "a.jxl"])
def test_a_damaged_picture_is_named_wherever_it_ends(tmp_path: Path, name: str) -> None:
    path = write(colours(96, 64), tmp_path / name)
    body = path.read_bytes()

    for end in range(1, len(body) - 8, len(body) // 12):
        path.write_bytes(body[:end])
        with pytest.raises(BadImageError, match=rf"^{name}: ") as caught:
            inspect_image(path, name=name)
        assert "build" not in caught.value.message
        assert str(tmp_path) not in caught.value.message
        if end > 32:
            assert "damaged" in caught.value.message


_WITHOUT_PLUGIN = """
import sys
from pathlib import Path
sys.modules["pillow_jxl"] = None
from trainer_core.data.images import inspect_image
from trainer_core.errors import BadImageError
try:
    inspect_image(Path(sys.argv[1]), name="a.jxl")
except BadImageError as error:
    print(error.message)
"""


def test_without_the_plugin_the_message_says_what_to_install(tmp_path: Path) -> None:
    path = write(colours(96, 64), tmp_path / "a.jxl")

    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PLUGIN, path], capture_output=True, text=True, check=True
    )

    assert run.stdout.strip() == (
        "a.jxl: JPEG XL pictures need the package pillow-jxl-plugin (pip install 'reverie[jxl]'); "
        "install it, or save it as PNG"
    )
