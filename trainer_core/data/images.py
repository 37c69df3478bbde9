"""Decode images of users: limited formats and sizes, errors that name the file."""

import contextlib
import errno
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from trainer_core.config.plan import MaskKind
from trainer_core.data.buckets import Geometry
from trainer_core.data.formats import FORMATS, READ_KINDS, content_kind, usual_suffix
from trainer_core.data.jpeg_xl import is_jpeg_xl, size_of_jpeg_xl
from trainer_core.data.mask_levels import Lit
from trainer_core.errors import BadImageError

MAX_PIXELS: Final = 64_000_000
_WHITE: Final = 255
_ORIENTATION: Final = 0x0112
UPRIGHT: Final = 1
SIDEWAYS: Final = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""

_MOVING: Final = ("GIF", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "FLI", "DCX")
"""Formats whose further frames or pages are pictures of their own. Those of the others are previews
or layers."""
_HEAD_BYTES: Final = 512

_IN_EIGHTHS: Final = ("JPEG", "MPO")
"""Formats that can be decoded to an eighth of their size."""
_SAMPLED: Final = ("L", "RGB", "RGBA", "CMYK")
_SAMPLE: Final = (32, 32)

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
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""Exceptions that Pillow's decoders and plugins raise on broken files; Pillow documents no list."""
_OF_MACHINE: Final = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
"""Error numbers that do not tell anything about the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """The size of an image as displayed, that is with its EXIF orientation applied."""

    width_px: int
    height_px: int
    has_more: bool = False
    """The file has further frames or pages, which are not read."""
    lit: Lit | None = None
    """None where it was not asked for."""


def inspect_image(path: Path, *, name: str, is_mask: bool = False) -> ImageFacts:
    """Decode the whole image and return its size; of what is or may be a mask, also what is lit.

    A JPEG is decoded to an eighth of its size: the decoder reads the same bytes, in less than half
    the time.

    Raises BadImageError, which names the file as ``name``, if the file is no picture of
    ``FORMATS``, has more than 64 million pixels or pixels without a black and a white, or does not
    decode; OSError where this machine cannot read files at all.
    """
    with opened_image(path, name) as image:
        facts = decoded_facts(image, name)
        return replace(facts, lit=lit_in(image, path, name)) if is_mask else facts


def decoded_facts(image: Image.Image, name: str) -> ImageFacts:
    """As ``inspect_image``, of an image that ``opened_image`` gave; its pixels are loaded then."""
    if image.format in _IN_EIGHTHS:
        size = image.size
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    else:
        image.load()
        size = image.size  # that of an icon is known only now
    width, height = size
    if orientation_of(image) in SIDEWAYS:
        width, height = height, width
    _check_levels(image, name)
    has_more = image.format in _MOVING and getattr(image, "n_frames", 1) > 1
    return ImageFacts(width_px=width, height_px=height, has_more=has_more)


def lit_in(image: Image.Image, path: Path, name: str) -> Lit:
    """What is lit in an image that ``decoded_facts`` has read from ``path``.

    An eighth of a JPEG shows what is lit, but not that nothing is. Only then is it decoded again.
    """
    lit = _lit(image)
    if lit == "red" or image.format not in _IN_EIGHTHS:
        return lit
    with opened_image(path, name) as whole:
        whole.load()
        return _lit(whole)


def _lit(image: Image.Image) -> Lit:
    """As ``load_mask`` reads it."""
    if image.mode in _SAMPLED and _brightest(image.resize(_SAMPLE, Image.Resampling.NEAREST))[0]:
        return "red"  # as nearly every picture is, within a fraction of a millisecond
    red, *others = _brightest(image)
    return "red" if red else "other" if any(others) else "nothing"


def _brightest(image: Image.Image) -> tuple[int, ...]:
    """The highest level of red, green and blue; what is transparent is black."""
    extrema = cast(tuple[tuple[int, int], ...], _rgb(image, "black").getextrema())
    return tuple(high for _, high in extrema)


def suffix_of_content(path: Path, *, name: str) -> str:
    """The usual suffix of the format that the file has, whatever its name; as in ``.jpg``.

    Raises BadImageError as ``inspect_image`` does.
    """
    with opened_image(path, name) as image:
        return usual_suffix(str(image.format))


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
    with opened_image(path, name) as image:
        image.load()
        _check_levels(image, name)
        return image if orientation_of(image) == UPRIGHT else ImageOps.exif_transpose(image)


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation that is still to be applied, 1 to 8; 1: the picture is upright.

    The decoder of JPEG XL has turned the picture as its codestream says, which by the standard
    stands above EXIF. A JPEG that it restored is as any other JPEG.
    """
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return UPRIGHT
    found = image.getexif().get(_ORIENTATION, UPRIGHT)
    return found if found in range(UPRIGHT, 9) else UPRIGHT


def _check_levels(image: Image.Image, name: str) -> None:
    """Raise BadImageError if it is not known which values are black and white."""
    wide = image.mode == "F" or (image.mode == "I" and not _is_16_bit(image))
    if wide:
        raise BadImageError(
            f"{name}: its pixels have 32 bits, and what is white among them is not known; save it "
            "with 8 or 16 bits",
            "unknown_levels",
        )
    if image.mode == "LAB":
        raise BadImageError(f"{name}: its colours are L*a*b*; save it in RGB", "unknown_levels")


def _is_16_bit(image: Image.Image) -> bool:
    low, high = cast(tuple[int, int], image.getextrema())
    return low >= 0 and high <= 0xFFFF


@contextlib.contextmanager
def opened_image(path: Path, name: str) -> Iterator[Image.Image]:
    """The image, not too large; what its decoder raises in the block becomes BadImageError."""
    try:
        _check_jpeg_xl(path, name)
        with Image.open(path, formats=_openable()) as image:
            _check_size(image.size, name)
            yield image
    except _DECODING_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _OF_MACHINE:
            raise
        if isinstance(error, Image.DecompressionBombError):  # far more: Pillow does not open it
            message = f"{name}: more than {MAX_PIXELS} pixels"
            raise BadImageError(message, "too_many_pixels") from error
        raise BadImageError(f"{name}: {_why_unreadable(path, error)}") from error


@functools.cache
def _openable() -> tuple[str, ...]:
    """The formats that Pillow can open here; those of plugins only after they are called."""
    import pi_heif  # noqa: PLC0415 - Pillow's users that read no pictures need no codecs

    pi_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401, PLC0415 - registers itself; an extra, because it is GPL
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_jpeg_xl(path: Path, name: str) -> None:
    """Raise BadImageError for a JPEG XL picture that is too large, or that nothing here decodes."""
    with path.open("rb") as file:
        if not is_jpeg_xl(file.read(12)):
            return
        size = size_of_jpeg_xl(file)
    if "JXL" not in _openable():
        raise BadImageError(
            f"{name}: JPEG XL pictures need the package pillow-jxl-plugin (pip install "
            "'reverie[jxl]'); install it, or save it as PNG",
            "no_decoder",
        )
    if size is not None:  # else the decoder says what is wrong
        _check_size(size, name)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        message = f"{name}: {width} x {height} is more than {MAX_PIXELS} pixels"
        raise BadImageError(message, "too_many_pixels")


def _why_unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a file, and what to do about it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as unreadable:
        return str(unreadable.strerror)
    if not head:
        return "the file is empty; copy it again or take it away"
    kind = content_kind(head)
    if kind in READ_KINDS and isinstance(error, UnidentifiedImageError | RuntimeError):
        # A plugin that does not know the file, or whose error is for those who build it.
        return f"the file is {kind} that is damaged or cut off; copy it again or take it away"
    if not isinstance(error, UnidentifiedImageError):
        why = str(error).replace(str(path), "the file")
        return f"the picture is damaged or cut off ({why}); copy it again or take it away"
    if kind is None:
        return "not a picture of a known format; save it as JPEG or PNG, or take it away"
    return f"the file is {kind}, whatever its name says; save it as JPEG or PNG, or take it away"


def _rgb(image: Image.Image, behind: Literal["white", "black"]) -> Image.Image:
    """8 bit RGB; transparent parts get the colour ``behind``."""
    if image.mode.startswith("I"):  # 16-bit greys: convert() would cut them off at 255
        image = image.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, behind), layer)
    return image.convert("RGB")
