"""Draw contact sheets: the pixels that the encoder gets, with what the crop did to each image."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from trainer_core.config.plan.shapes import LATENT_CELL_PX
from trainer_core.data.images import load_mask, load_rgb
from trainer_core.data.report.crops import UPSCALED_FROM, Fitted
from trainer_core.data.report.shown import Shown, ShownMask
from trainer_core.errors import BadImageError
from trainer_core.in_words import printable

PER_PAGE: Final = 48
MAX_PAGES: Final = 25
SHEET_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
_COLUMNS: Final = 6
_THUMB_PX: Final = 240
_GAP_PX: Final = 10
_LINE_PX: Final = 16
_LINES: Final = 4
_CELL_W: Final = _THUMB_PX + _GAP_PX
_CELL_H: Final = _THUMB_PX + _LINES * _LINE_PX + _GAP_PX
_HEAD_PX: Final = 28
_PAPER: Final = "white"
_INK: Final = "black"
_QUIET: Final = "#666666"
_LOUD: Final = "#c00000"
"""For what one should look at."""
_MUCH_CUT: Final = 0.2
"""Share of the area from which on a crop is marked."""
_THREADS: Final = min(8, os.cpu_count() or 1)
_FontType = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_contact_sheet(target: Path, shown: Sequence[Shown], total: int) -> list[Path]:
    """Write one page into the file ``target``, or pages into the folder ``target``.

    Pages that are there are replaced, each at once; other files stay.

    Args:
        target: a file with one of ``SHEET_SUFFIXES``, or a folder, which is made.
        shown: at most 48 images for a file; for a folder more, 48 to a page.
        total: the images that the run uses, of which these are some.

    Raises OSError where a page cannot be written.
    """
    if is_one_page(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _save(_page(shown, _title(shown, total)), target)
        return [target]
    target.mkdir(parents=True, exist_ok=True)
    pages = [shown[first : first + PER_PAGE] for first in range(0, len(shown), PER_PAGE)]
    written = []
    for number, page in enumerate(pages, 1):
        path = target / f"page-{number:03}.jpg"
        _save(_page(page, f"Page {number} of {len(pages)}. {_title(shown, total)}"), path)
        written.append(path)
    return written


def is_one_page(target: Path) -> bool:
    """Whether a contact sheet with this name is one file, and not a folder of pages."""
    return target.suffix.lower() in SHEET_SUFFIXES


def _title(shown: Sequence[Shown], total: int) -> str:
    images = len({(each.backend.id, each.crop.item.path) for each in shown})
    spread = "" if images == total else f" {images} of {total:,} images, evenly spread."
    masked = any(each.mask is not None for each in shown)
    red = " Red over an image: its mask leaves this part out." if masked else ""
    return f"What the model sees after the crop.{spread}{red}"


def _save(page: Image.Image, path: Path) -> None:
    draft = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        page.save(draft, quality=90)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _page(shown: Sequence[Shown], title: str) -> Image.Image:
    rows = -(-len(shown) // _COLUMNS)
    size = _COLUMNS * _CELL_W + _GAP_PX, rows * _CELL_H + _HEAD_PX + _GAP_PX
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    draw.text((_GAP_PX, 6), title, _INK, font)
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, (each, thumb) in enumerate(zip(shown, pool.map(_thumb, shown), strict=True)):
            row, column = divmod(number, _COLUMNS)
            left, top = _GAP_PX + column * _CELL_W, _HEAD_PX + row * _CELL_H
            lines: Iterator[tuple[str, str]] = _lines(each)
            if isinstance(thumb, Image.Image):
                across, down = ((_THUMB_PX - side) // 2 for side in thumb.size)
                page.paste(thumb, (left + across, top + down))
            else:
                lines = chain(lines, ((thumb, _LOUD),))
            for line, (text, colour) in enumerate(lines):
                place = left, top + _THUMB_PX + 2 + line * _LINE_PX
                draw.text(place, _fitting(text, draw, font), colour, font)
    return page


def _thumb(shown: Shown) -> Image.Image | str:
    """What the encoder gets of an image, made small; or why it cannot be drawn."""
    item, geometry = shown.crop.item, shown.crop.geometry
    try:
        image = load_rgb(shown.file, geometry, name=item.path)
        if shown.mask is not None:
            image = _masked(image, shown.crop, shown.mask)
    except (BadImageError, OSError) as error:
        return str(error)
    image.thumbnail((_THUMB_PX, _THUMB_PX), Image.Resampling.LANCZOS)
    return image


def _masked(image: Image.Image, crop: Fitted, mask: ShownMask) -> Image.Image:
    """The image with red over the cells that its mask leaves out."""
    levels = load_mask(mask.file, crop.geometry, mask.kind, LATENT_CELL_PX, name=crop.item.path)
    counts = levels.convert("L").resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(
        image, Image.blend(image, Image.new("RGB", image.size, "red"), 0.5), counts
    )


def _lines(shown: Shown) -> Iterator[tuple[str, str]]:
    """Text and colour of each line below an image."""
    item, geometry = shown.crop.item, shown.crop.geometry
    held_out = ", held out" if shown.backend.role == "eval" else ""
    yield f"{shown.backend.id}{held_out}: {item.path}", _INK
    size = f"{geometry.width_px} x {geometry.height_px}"
    if shown.crop.num_crops > 1:
        size += f", crop {shown.crop.number + 1} of {shown.crop.num_crops}"
    marks = []
    if shown.crop.loss >= _MUCH_CUT:
        marks.append(f"{100 * shown.crop.loss:.0f} % cut away")
    if shown.crop.scale > UPSCALED_FROM:
        marks.append(f"enlarged {shown.crop.scale:.2g} times")
    yield ", ".join((size, *marks)), _LOUD if marks else _QUIET
    more = f" (and {len(item.captions) - 1} more)" if len(item.captions) > 1 else ""
    yield f"{item.captions[0]}{more}", _QUIET


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: _FontType) -> str:
    """The text on one line, its end cut off where it is too wide."""
    text = printable(text, 200)
    if draw.textlength(text, font) <= _THUMB_PX:
        return text
    fits = [
        end for end in range(1, len(text)) if draw.textlength(f"{text[:end]}…", font) <= _THUMB_PX
    ]
    return f"{text[: max(fits, default=0)]}…"
