"""Contact sheets, read back pixel by pixel."""

import io
import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from trainer_core.config.plan import Shown
from trainer_core.errors import BadImageError
from trainer_core.painting import contact_sheet as sheets
from trainer_core.painting.contact_sheet import (
    Column,
    Picture,
    contact_sheet,
    evenly_chosen,
    headings,
    shown_of,
)

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (236, 236, 236)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def picture(
    step: int, name: str, colour: tuple[int, int, int], weights: Shown = "trained"
) -> Picture:
    return Picture(step=step, name=name, weights=weights, image=plain(colour))


def opened(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body))
    image.load()
    return image


def contents(body: bytes) -> dict[str, object]:
    return json.loads(opened(body).info["Description"])


def cell(image: Image.Image, row: int, column: int, cell_px: int = 256) -> tuple[int, ...]:
    """The colour in the middle of a cell."""
    left = sheets._left_px(column, cell_px) + cell_px // 2
    top = sheets._top_px(row, cell_px) + cell_px // 2
    pixel = image.getpixel((left, top))
    assert isinstance(pixel, tuple)
    return pixel


def test_rows_are_steps_with_the_base_first_and_columns_are_prompts() -> None:
    body = contact_sheet(
        [
            picture(200, "cat", RED),
            picture(200, "dog", GREEN),
            picture(100, "dog", BLUE),
            picture(0, "cat", GREEN, "base"),
            picture(200, "cat", BLUE, "ema"),
        ]
    )
    image = opened(body)
    assert contents(body)["rows"] == ["base", "step 100", "step 200", "step 200 ema"]
    assert contents(body)["columns"] == ["cat", "dog"]
    found = [[cell(image, row, column) for column in range(2)] for row in range(4)]
    assert found == [[GREEN, GREY], [GREY, BLUE], [RED, GREEN], [BLUE, GREY]]


def test_a_later_picture_of_a_place_replaces_the_one_of_before() -> None:
    image = opened(contact_sheet([picture(1, "cat", RED), picture(1, "cat", BLUE)]))
    assert cell(image, 0, 0) == BLUE


def test_the_same_pictures_give_the_same_bytes_and_the_text_says_what_it_is() -> None:
    given = [picture(1, "a\nb", RED)]
    body = contact_sheet(given, title="A run")
    assert body == contact_sheet(given, title="A run")
    assert opened(body).info["Title"] == "Contact sheet"
    assert contents(body)["what"] == "contact sheet"
    assert contents(body)["title"] == "A run"
    assert contents(body)["columns"] == ["a\nb"]
    assert body != contact_sheet(given, title="Another run")


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((64, 32), (256, 128)),  # enlarged by a whole number
        ((200, 100), (200, 100)),
        ((1024, 512), (256, 128)),
        ((4000, 2), (256, 1)),
    ],
)
def test_a_picture_keeps_its_proportions_in_the_middle_of_its_cell(
    size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    given = Picture(step=1, name="x", weights="trained", image=plain(RED, size))
    image = opened(contact_sheet([given]))
    left, top = sheets._left_px(0, 256), sheets._top_px(0, 256)
    box = image.crop((left, top, left + 256, top + 256))
    red = Image.eval(box.getchannel("G"), lambda value: 255 if value == 0 else 0).getbbox()
    assert red is not None
    assert (red[2] - red[0], red[3] - red[1]) == drawn
    assert abs((red[0] + red[2]) - 256) <= 1
    assert abs((red[1] + red[3]) - 256) <= 1


def test_pixels_of_a_small_picture_stay_pixels() -> None:
    small = plain(RED, (4, 4))
    small.putpixel((1, 2), BLUE)
    image = opened(contact_sheet([Picture(step=1, name="x", weights="trained", image=small)]))
    left, top = sheets._left_px(0, 256) + 64, sheets._top_px(0, 256) + 128
    box = image.crop((left - 1, top - 1, left + 65, top + 65))
    assert sorted(box.getcolors() or []) == sorted([(64 * 64, BLUE), (66 * 66 - 64 * 64, RED)])


def test_of_too_many_steps_the_first_the_last_and_even_ones_between_are_read(
    tmp_path: Path,
) -> None:
    shown = evenly_chosen(list(range(10, 1010, 10)), sheets.MAX_ROWS - 1)
    assert (shown[0], shown[-1], len(shown)) == (10, 1000, sheets.MAX_ROWS - 1)
    assert {later - earlier for earlier, later in itertools.pairwise(shown)} == {40, 50}
    given = [picture(0, "cat", GREEN, "base")]
    for step in range(10, 1010, 10):
        path = tmp_path / f"{step}.png"
        if step in shown:  # files of others are not there
            plain((step % 251, 0, 0)).save(path)
        given.append(Picture(step=step, name="cat", weights="trained", image=path))
    assert [each.step for each in shown_of(given)] == [0, *shown]
    body = contact_sheet(given)
    assert contents(body)["rows"] == ["base", *(f"step {step}" for step in shown)]
    assert contents(body)["left_out"] == f"Shown: {len(shown)} of 100 steps."
    image = opened(body)
    for row, step in enumerate(shown, start=1):
        assert cell(image, row, 0) == (step % 251, 0, 0)


def test_both_rows_of_a_chosen_step_are_shown() -> None:
    given = [
        picture(step, "cat", RED, weights)
        for step in range(1, 41)
        for weights in ("trained", "ema")
    ]
    rows = contents(contact_sheet(given))["rows"]
    assert isinstance(rows, list)
    assert len(rows) <= sheets.MAX_ROWS
    assert rows[:2] == ["step 1", "step 1 ema"]
    assert rows[-2:] == ["step 40", "step 40 ema"]


def test_a_sheet_is_bounded() -> None:
    given = [
        picture(step, f"prompt {number}", RED)
        for step in range(sheets.MAX_ROWS)
        for number in range(sheets.MAX_COLUMNS + 3)
    ]
    body = contact_sheet(given)
    image = opened(body)
    assert image.width * image.height < 1.1 * sheets.MAX_PIXELS
    assert contents(body)["left_out"] == "Shown: 16 of 19 prompts."
    cell_px = sheets._cell_px(sheets.MAX_ROWS * sheets.MAX_COLUMNS)
    assert cell(image, sheets.MAX_ROWS - 1, sheets.MAX_COLUMNS - 1, cell_px) == RED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a\x00b\x1b[31m\r\n\u2028c",
        "\ud800 lone surrogate",
        "桜の木の下で",
        "\u202eright to left",
        "e" + "\u0301" * 5000,
        "👩\u200d👩\u200d👧",
        "x" * 100_000,
        "<b>&amp;</b>",
    ],
)
def test_any_text_can_be_a_name_and_a_title_and_stays_in_its_place(text: str) -> None:
    body = contact_sheet([picture(1, text, RED), picture(1, "right", RED)], title=text)
    image = opened(body)
    assert contents(body)["columns"] == [text, "right"]
    left = sheets._left_px(1, 256) - sheets._GAP_PX
    gap = image.crop((left, sheets._LINE_PX, left + sheets._GAP_PX, 2 * sheets._LINE_PX))
    assert gap.getcolors() == [(sheets._GAP_PX * sheets._LINE_PX, (255, 255, 255))]


def test_a_question_mark_stands_for_what_the_font_lacks() -> None:
    assert sheets._drawable("a 桜\tÉtude!") == "a ? Etude!"


def test_labels_are_drawn() -> None:
    one = opened(contact_sheet([picture(1, "cat", RED)]))
    other = opened(contact_sheet([picture(2, "dog", RED)]))
    heading = (96, 24, 352, 48)
    margin = (0, 48, 96, 304)
    for box in (heading, margin):
        assert one.crop(box).tobytes() != other.crop(box).tobytes()
        assert len(one.crop(box).getcolors(1000) or []) > 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"not a picture", "cannot be read as a PNG picture"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as a PNG picture"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "cannot be read as a PNG picture"),
    ],
)
def test_a_file_that_is_no_whole_png_is_named(tmp_path: Path, body: bytes, said: str) -> None:
    path = tmp_path / "step.png"
    path.write_bytes(body)
    with pytest.raises(BadImageError, match=said) as caught:
        contact_sheet([Picture(step=1, name="x", weights="trained", image=path)])
    assert "step.png" in str(caught.value)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadImageError, match=r"half\.png"):
        contact_sheet([Picture(step=1, name="x", weights="trained", image=path)])


def test_a_picture_of_too_many_pixels_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    plain(RED, (40, 40)).save(path)
    monkeypatch.setattr(sheets, "MAX_PICTURE_PIXELS", 40 * 40 - 1)
    with pytest.raises(BadImageError, match="40 by 40 px are too many"):
        contact_sheet([Picture(step=1, name="x", weights="trained", image=path)])


def test_a_sheet_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
def test_pictures_of_every_mode_are_drawn(mode: str) -> None:
    image = Image.new(mode, (64, 64))
    contact_sheet([Picture(step=1, name="x", weights="trained", image=image)])


def test_equal_limits_choose_all() -> None:
    assert evenly_chosen([1, 2, 3], 3) == [1, 2, 3]
    assert evenly_chosen([1, 2, 3], 2) == [1, 3]
    assert evenly_chosen([1, 2, 3], 1) == [3]


def test_a_heading_has_what_tells_columns_of_a_prompt_apart() -> None:
    def column(name: str, width_px: int = 64, seed: int = 1) -> Column:
        return Column(name=name, width_px=width_px, height_px=64, seed=seed)

    assert headings([column("cat"), column("dog"), column("cat")]) == {
        column("cat"): "cat",
        column("dog"): "dog",
    }
    given = [column("cat"), column("cat", 32), column("dog"), column("dog", seed=2)]
    assert list(headings(given).values()) == ["cat 64x64", "cat 32x64", "dog seed 1", "dog seed 2"]
    both = [column("cat", width, seed) for width in (32, 64) for seed in (1, 2)]
    assert headings(both)[both[3]] == "cat 64x64 seed 2"
