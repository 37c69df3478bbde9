"""Contact sheets: the pictures of a run on one page, by step and prompt. Imports no torch.

A row is a step, a column a prompt. The pictures of the base model come first, above the trained
ones, so that each column can be compared from top to bottom.
"""

import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from trainer_core.config.plan import Shown
from trainer_core.errors import BadImageError

SHEET: Final = "samples/contact-sheet.png"
"""Of a run, below its output folder; in a model repository the same."""
MAX_ROWS: Final = 24
MAX_COLUMNS: Final = 16
MAX_PIXELS: Final = 16_000_000
"""Of the cells together; many pictures get smaller cells."""
MAX_PICTURE_PIXELS: Final = 64_000_000
"""Of one picture that is read."""

_CELL_PX: Final = 256
_GAP_PX: Final = 8
_MARGIN_PX: Final = 96
"""Left of the cells, for the step."""
_LINE_PX: Final = 24
_FONT_PX: Final = 14
_MAX_TEXT: Final = 400
"""Characters of a text that are looked at; a cell shows fewer."""
_PAPER: Final = (255, 255, 255)
_INK: Final = (32, 32, 32)
_EMPTY: Final = (236, 236, 236)
"""Where a row has no picture of a prompt."""
_ORDER: Final[dict[Shown, int]] = {"base": 0, "trained": 1, "ema": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture and its place on the sheet. A later one of the same place replaces it."""

    step: int
    """Optimizer steps that were done; of no meaning for pictures of the base model."""
    name: str
    """Of the prompt: the heading of the column. Any text."""
    weights: Shown
    image: Image.Image | Path
    """A path names a PNG file."""


@dataclass(frozen=True, order=True, slots=True)
class _Row:
    """Ordered as on the sheet."""

    is_trained: bool
    step: int
    order: int

    @property
    def label(self) -> str:
        if not self.is_trained:
            return "base"
        return f"step {self.step}" + (" ema" if self.order == _ORDER["ema"] else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What the pictures of one column have in common."""

    name: str
    """Of the prompt."""
    width_px: int
    height_px: int
    seed: int


def headings(columns: Iterable[Column]) -> dict[Column, str]:
    """Their headings: the name, with size and seed where a prompt has pictures of several."""
    every = list(dict.fromkeys(columns))
    sizes = Counter((each.name, each.width_px, each.height_px) for each in every)
    seeds = Counter((each.name, each.seed) for each in every)
    num_sizes = Counter(name for name, _, _ in sizes)
    num_seeds = Counter(name for name, _ in seeds)
    return {
        each: " ".join(
            (
                each.name,
                *((f"{each.width_px}x{each.height_px}",) if num_sizes[each.name] > 1 else ()),
                *((f"seed {each.seed}",) if num_seeds[each.name] > 1 else ()),
            )
        )
        for each in every
    }


def shown_of(pictures: Iterable[Picture]) -> list[Picture]:
    """The pictures that their contact sheet shows; only these are read."""
    cells = {(_row_of(picture), picture.name): picture for picture in pictures}
    rows, names = _chosen(cells)
    return [cells[row, name] for row in rows for name in names if (row, name) in cells]


def contact_sheet(pictures: Iterable[Picture], *, title: str = "") -> bytes:
    """One PNG of all pictures: rows are steps, the base first; columns are prompts, as they come.

    At most MAX_ROWS rows and MAX_COLUMNS columns are shown: of too many steps the first, the last
    and evenly spaced ones between, of too many prompts the first ones. A line at the end says what
    is left out. Only what is shown is read. The same pictures give the same pixels.

    A text of the PNG, ``Description``, holds title, rows and columns as JSON, with names in full;
    drawn names are cut, and ``?`` stands for letters that the font lacks.

    Args:
        pictures: in any order; their sizes may differ.
        title: drawn above; any text.

    Raises:
        ValueError: there is no picture.
        BadImageError: a file is no PNG, is damaged or too large; the message names it.
    """
    cells = {(_row_of(picture), picture.name): picture.image for picture in pictures}
    if not cells:
        raise ValueError("a contact sheet needs at least one picture")
    rows, names = _chosen(cells)
    left_out = _left_out(cells, rows, names)
    cell_px = _cell_px(len(rows) * len(names))
    sheet = _blank(len(rows), len(names), cell_px)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_GAP_PX, 0), title, sheet.width - 2 * _GAP_PX)
    for column, name in enumerate(names):
        _write(draw, (_left_px(column, cell_px), _LINE_PX), name, cell_px)
    for number, row in enumerate(rows):
        top_px = _top_px(number, cell_px)
        _write(draw, (_GAP_PX, top_px), row.label, _MARGIN_PX - 2 * _GAP_PX)
        for column, name in enumerate(names):
            place = (_left_px(column, cell_px), top_px)
            _put(sheet, cells.get((row, name)), place, cell_px)
    _write(draw, (_GAP_PX, sheet.height - _LINE_PX), left_out, sheet.width - 2 * _GAP_PX)
    contents = {
        "what": "contact sheet",
        "title": title,
        "rows": [row.label for row in rows],
        "columns": names,
        "left_out": left_out,
    }
    return _as_png(sheet, json.dumps(contents))


def _row_of(picture: Picture) -> _Row:
    if picture.weights == "base":
        return _Row(is_trained=False, step=0, order=_ORDER["base"])
    return _Row(is_trained=True, step=picture.step, order=_ORDER[picture.weights])


def evenly_chosen(steps: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` of the steps: the first, the last and evenly spaced ones between.

    A limit of 1 leaves the last one.
    """
    if len(steps) <= limit:
        return list(steps)
    if limit < 2:
        return list(steps[-1:])
    last = len(steps) - 1
    return [steps[round(number * last / (limit - 1))] for number in range(limit)]


def _chosen(cells: Iterable[tuple[_Row, str]]) -> tuple[list[_Row], list[str]]:
    """Rows and columns of the sheet, in order."""
    every_name = list(dict.fromkeys(name for _, name in cells))
    return _chosen_rows(sorted({row for row, _ in cells})), every_name[:MAX_COLUMNS]


def _chosen_rows(rows: Sequence[_Row]) -> list[_Row]:
    base = [row for row in rows if not row.is_trained]
    trained = [row for row in rows if row.is_trained]
    if len(rows) <= MAX_ROWS:
        return [*base, *trained]
    of_a_step = len({row.order for row in trained})
    steps = sorted({row.step for row in trained})
    chosen = set(evenly_chosen(steps, (MAX_ROWS - len(base)) // of_a_step))
    return [*base, *(row for row in trained if row.step in chosen)]


def _left_out(cells: Iterable[tuple[_Row, str]], rows: Sequence[_Row], names: Sequence[str]) -> str:
    """What the sheet does not show, in words; empty where it shows all."""
    said = []
    every_place = list(cells)
    steps, all_steps = _num_steps(rows), _num_steps(row for row, _ in every_place)
    if steps < all_steps:
        said.append(f"{steps} of {all_steps} steps")
    all_names = len({name for _, name in every_place})
    if len(names) < all_names:
        said.append(f"{len(names)} of {all_names} prompts")
    return f"Shown: {', '.join(said)}." if said else ""


def _num_steps(rows: Iterable[_Row]) -> int:
    return len({row.step for row in rows if row.is_trained})


def _cell_px(num_cells: int) -> int:
    """The side of a cell, so that all cells with their gaps have at most MAX_PIXELS."""
    return min(_CELL_PX, int((MAX_PIXELS / num_cells) ** 0.5) - _GAP_PX)


def _left_px(column: int, cell_px: int) -> int:
    return _MARGIN_PX + column * (cell_px + _GAP_PX)


def _top_px(row: int, cell_px: int) -> int:
    return 2 * _LINE_PX + row * (cell_px + _GAP_PX)


def _blank(num_rows: int, num_columns: int, cell_px: int) -> Image.Image:
    size = (_left_px(num_columns, cell_px), _top_px(num_rows, cell_px) + _LINE_PX)
    return Image.new("RGB", size, _PAPER)


def _put(
    sheet: Image.Image, image: Image.Image | Path | None, place: tuple[int, int], cell_px: int
) -> None:
    """Draw a picture in the middle of its cell; None: the cell is grey."""
    if image is None:
        sheet.paste(_EMPTY, (*place, place[0] + cell_px, place[1] + cell_px))
        return
    small = _fitted(_read(image) if isinstance(image, Path) else image.convert("RGB"), cell_px)
    middle = (cell_px - small.width) // 2, (cell_px - small.height) // 2
    sheet.paste(small, (place[0] + middle[0], place[1] + middle[1]))


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PICTURE_PIXELS:
                raise BadImageError(
                    f"{path}: {image.width} by {image.height} px are too many for a contact sheet",
                    "too_many_pixels",
                )
            return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise BadImageError(f"{path}: {error}", "too_many_pixels") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImageError(f"{path}: cannot be read as a PNG picture: {error}") from error


def _fitted(image: Image.Image, cell_px: int) -> Image.Image:
    """The picture with the longer side at most ``cell_px``, in its own proportions.

    A small one is enlarged by a whole number, so that its pixels stay pixels.
    """
    longest_px = max(image.size)
    if longest_px <= cell_px:
        factor = cell_px // longest_px
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    width_px, height_px = (max(1, round(side * cell_px / longest_px)) for side in image.size)
    return image.resize((width_px, height_px), Image.Resampling.LANCZOS)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width_px: int) -> None:
    """One line of text, cut at ``width_px``."""
    line = _drawable(text)
    font = _font()
    if font.getlength(line) > width_px:
        while line and font.getlength(line + "…") > width_px:
            line = line[:-1]
        line = line.rstrip() + "…"
    draw.text((place[0], place[1] + (_LINE_PX - _FONT_PX) // 2), line, fill=_INK, font=font)


def _drawable(text: str) -> str:
    """The text in one line, of letters that the font has.

    A letter loses an accent that the font lacks; ``?`` stands for any other one.
    """
    cleaned = "".join(
        " " if unicodedata.category(letter).startswith(("C", "Z")) else letter
        for letter in text[:_MAX_TEXT]
    )
    return "".join(_nearest(letter) for letter in " ".join(cleaned.split()))


def _nearest(letter: str) -> str:
    plain = unicodedata.normalize("NFKD", letter)[0]
    return next((each for each in (letter, plain) if _has(each)), "?")


@cache
def _has(letter: str) -> bool:
    """Whether the font has the letter: one that it lacks is drawn like any other it lacks."""
    font = _font()
    return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))


def _as_png(sheet: Image.Image, description: str) -> bytes:
    texts = PngInfo()
    texts.add_itxt("Title", "Contact sheet")
    texts.add_itxt("Description", description)
    texts.add_itxt("Software", "Reverie")
    body = io.BytesIO()
    sheet.save(body, "PNG", pnginfo=texts)
    return body.getvalue()
