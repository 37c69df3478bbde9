"""Look at one picture closely: its size, what is odd about it, and how it looks in 128 bits."""

import functools
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

from PIL import Image, ImageCms, ImageOps

from trainer_core.data.images import (
    SIDEWAYS,
    UPRIGHT,
    decoded_facts,
    lit_in,
    opened_image,
    orientation_of,
)
from trainer_core.data.mask_levels import Lit
from trainer_core.data.report.likeness import likeness_of
from trainer_core.data.report.model import Depth, Trait

_PROFILE_NAME_CHARACTERS: Final = 60
_SAME_COLOUR: Final = 6
"""The largest difference, in levels of 255, that a profile may make to count as sRGB's."""
_TRIED_COLOURS: Final = (
    *((level, level, level) for level in (64, 128, 192, 240)),
    *((220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (40, 220, 220), (220, 40, 220)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What one picture is; ``sha256`` of the file, sizes as displayed."""

    sha256: str
    width_px: int
    height_px: int
    has_more: bool
    traits: dict[Trait, str | None]
    """What it has → more about it."""
    likeness: int | None
    """As ``likeness_of``."""
    lit: Lit | None
    """As in ``ImageFacts``."""


def examine_image(path: Path, *, name: str, is_mask: bool = False) -> Examined:
    """Decode the whole image once; raises as ``inspect_image``, and OSError."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with opened_image(path, name) as image:
        traits = dict(_traits_in_header(image))  # the decoder forgets some of it
        if orientation_of(image) != UPRIGHT:
            traits["turned"] = None
        facts = decoded_facts(image, name)
        if _has_transparent_parts(image):
            traits["transparent"] = None
        if facts.has_more:
            traits["several_frames"] = None
        is_upright = orientation_of(image) == UPRIGHT
        likeness = likeness_of(image if is_upright else ImageOps.exif_transpose(image))
        lit = lit_in(image, path, name) if is_mask else None
    return Examined(
        sha256=sha256,
        width_px=facts.width_px,
        height_px=facts.height_px,
        has_more=facts.has_more,
        traits=traits,
        likeness=likeness,
        lit=lit,
    )


def read_header(
    path: Path,
    *,
    name: str,
    is_mask: bool = False,  # noqa: ARG001 - as every ``Examiner`` has it
) -> Examined:
    """What the header of an image says; its pixels are not decoded, and most of it is not read.

    Damage, further frames, transparent parts and likeness are not seen; ``lit`` is None. In place
    of the content's SHA-256 is that of the name and the size, on which a random crop depends: so
    such crops are as random, and not those of a run.

    Raises BadImageError where there is no header, or it tells of too many pixels; OSError.
    """
    with opened_image(path, name) as image:
        width, height = image.size
        traits = dict(_traits_in_header(image))
        # A PNG's EXIF may come after its pixels, which Pillow would decode to find it.
        if image.format != "PNG" or "exif" in image.info:
            orientation = orientation_of(image)
            if orientation != UPRIGHT:
                traits["turned"] = None
            if orientation in SIDEWAYS and image.format != "TIFF":  # Pillow has a TIFF's turned
                width, height = height, width
    return Examined(
        sha256=hashlib.sha256(f"{name} {width} {height}".encode()).hexdigest(),
        width_px=width,
        height_px=height,
        has_more=False,
        traits=traits,
        likeness=None,
        lit=None,
    )


class Examiner(Protocol):
    """Looks at one image; raises BadImageError and OSError."""

    def __call__(self, path: Path, *, name: str, is_mask: bool) -> Examined: ...


EXAMINERS: Final[Mapping[Depth, Examiner]] = {"pixels": examine_image, "headers": read_header}


def _traits_in_header(image: Image.Image) -> Iterator[tuple[Trait, str | None]]:
    """What is known before the pixels are loaded, but for EXIF's orientation."""
    if image.info.get("original_orientation", UPRIGHT) not in (None, UPRIGHT):
        yield "turned", None  # HEIC, which its plugin has turned
    if image.mode == "CMYK":
        yield "cmyk", None
    if _has_more_than_8_bits(image):
        yield "more_than_8_bits", None
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes):
        mode = image.mode if image.mode in ("CMYK", "L") else "RGB"
        if (name := _other_profile(profile, mode)) is not None:
            yield "colour_profile", name


def _has_more_than_8_bits(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel; asked before its pixels are loaded."""
    in_tiles = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return in_tiles or image.mode.startswith("I;16") or image.info.get("bit_depth", 8) > 8


def _has_transparent_parts(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    alpha = image if "A" in image.getbands() else image.convert("RGBA")
    low, _ = cast(tuple[int, int], alpha.getchannel("A").getextrema())
    return low < 255


@functools.lru_cache(maxsize=64)
def _other_profile(profile: bytes, mode: str) -> str | None:
    """The name of an ICC profile whose colours are not those of sRGB; None for sRGB's.

    Cached: most pictures of a folder have one of few profiles.

    Args:
        profile: of the file.
        mode: ``CMYK``, ``L`` or ``RGB``: the colours of the picture.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip() or "without a name"
        is_other = _changes_colours(opened, mode)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return "unreadable"
    return name[:_PROFILE_NAME_CHARACTERS] if is_other else None


def _changes_colours(profile: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Whether a picture with the profile looks otherwise than Pillow converts it."""
    tried = Image.new("RGB", (len(_TRIED_COLOURS), 1))
    tried.putdata(_TRIED_COLOURS)
    given = tried.convert(mode)
    shown = ImageCms.profileToProfile(
        given, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert shown is not None  # None only where it is changed in place
    pairs = zip(given.convert("RGB").tobytes(), shown.tobytes(), strict=True)
    return max(abs(plain - seen) for plain, seen in pairs) > _SAME_COLOUR
