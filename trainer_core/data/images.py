"""Decode images that users upload: three formats, limited size, errors that name the file."""

import contextlib
import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image, ImageChops, ImageOps

from trainer_core.data.buckets import Geometry
from trainer_core.errors import BadImageError

FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 64_000_000
MaskKind = Literal["mask", "segmentation"]
_WHITE: Final = 255
_ORIENTATION: Final = 0x0112
_SIDEWAYS: Final = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""

_DECODING_ERRORS: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
"""Exceptions that Pillow's decoders raise on broken files; Pillow documents no list."""
_OF_MACHINE: Final = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
"""Error numbers that do not tell anything about the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """The size of an image as displayed, that is with its EXIF orientation applied."""

    width_px: int
    height_px: int


def inspect_image(path: Path, *, name: str) -> ImageFacts:
    """Decode the whole image and return its size.

    Raises BadImageError, which names the file as ``name``, if the format is not JPEG, PNG or WebP,
    if there are more than 64 million pixels, or if the content does not decode; OSError where this
    machine cannot read files at all.
    """
    image = _displayed(path, name)
    return ImageFacts(width_px=image.width, height_px=image.height)


def inspect_header(path: Path, *, name: str) -> ImageFacts:
    """The size in an image's header, without decoding the image.

    This is fast, but the rest of the file may be broken. Raises BadImageError as
    ``inspect_image`` does.
    """
    with _opened(path, name) as image:
        width, height = image.size
        # Not getexif(): for a PNG it reads to the end of the file.
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        is_turned = exif.get(_ORIENTATION) in _SIDEWAYS
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{name}: {width} x {height} is more than {MAX_PIXELS} pixels")
    if is_turned:
        width, height = height, width
    return ImageFacts(width_px=width, height_px=height)


def load_rgb(path: Path, geometry: Geometry, *, name: str | None = None) -> Image.Image:
    """The image scaled and cropped to its bucket: RGB, 8 bit, ``width_px × height_px``.

    Transparent parts become white. Raises BadImageError as ``inspect_image`` does.
    """
    image = _rgb(_displayed(path, name or path.name), "white")
    size = geometry.width_px, geometry.height_px
    return image.resize(size, Image.Resampling.LANCZOS, box=_part_of(image, geometry))


def load_mask(
    path: Path,
    geometry: Geometry,
    kind: MaskKind,
    cell_px: int,
    *,
    name: str,
) -> Image.Image:
    """A mask cropped like its image: mode F, one value per cell of ``cell_px``, from 0 to 255.

    A mask of another size than its image is stretched to that size. Each value is a mean over the
    cell: for ``mask`` of the red channel, for ``segmentation`` of 255 wherever any channel is above
    black. Transparent parts count as black.

    Args:
        geometry: geometry of the mask's image.

    Raises:
        BadImageError: as ``inspect_image``.
    """
    red, green, blue = _rgb(_displayed(path, name), "black").split()
    levels = red
    if kind == "segmentation":
        brightest = ImageChops.lighter(red, ImageChops.lighter(green, blue))
        levels = brightest.point([0] + [_WHITE] * _WHITE)
    size = geometry.width_px // cell_px, geometry.height_px // cell_px
    # In floats: the mean over a large cell with a few bright pixels may be less than one level.
    box = _part_of(levels, geometry)
    return levels.convert("F").resize(size, Image.Resampling.BOX, box=box)


def _part_of(image: Image.Image, geometry: Geometry) -> tuple[float, float, float, float]:
    """The part that the crop keeps: left, top, right, bottom in pixels of the unscaled image.

    Only this part is scaled, because scaling a very long image as a whole needs much memory.
    """
    across, down = image.width / geometry.resize_w, image.height / geometry.resize_h
    left, top = geometry.crop_x * across, geometry.crop_y * down
    right = min(image.width, (geometry.crop_x + geometry.width_px) * across)
    bottom = min(image.height, (geometry.crop_y + geometry.height_px) * down)
    return left, top, right, bottom


def _displayed(path: Path, name: str) -> Image.Image:
    with _opened(path, name) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(
                f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS} pixels"
            )
        image.load()
        return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Image.Image]:
    """The image; what its decoder raises in the block becomes BadImageError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except _DECODING_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _OF_MACHINE:
            raise
        if isinstance(error, Image.DecompressionBombError):  # far more: Pillow does not open it
            raise BadImageError(f"{name}: more than {MAX_PIXELS} pixels") from error
        why = str(error).replace(str(path), name)
        message = f"{name}: not a readable JPEG, PNG or WebP image ({why})"
        raise BadImageError(message) from error


def _rgb(image: Image.Image, behind: Literal["white", "black"]) -> Image.Image:
    """8 bit RGB; transparent parts get the colour ``behind``."""
    if image.mode.startswith("I"):  # 16-bit greys: convert() would cut them off at 255
        image = image.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, behind), layer)
    return image.convert("RGB")
