"""Contact sheets show the pixels that are encoded, of images that are evenly spread."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.planted_pictures import noise
from tests.unit.config_examples import import_small
from trainer_core.config.plan import Plan
from trainer_core.data.images import load_rgb
from trainer_core.data.report.contact_sheet import PER_PAGE, write_contact_sheet
from trainer_core.data.report.shown import Shown, few_of, shown_of, spread
from trainer_core.data.survey import survey_data

MAX_PX = 256 * 256
LOUD = (0xC0, 0, 0)


def plan_of(*backends: dict[str, Any]) -> Plan:
    named = [
        {"id": "cats", "caption_strategy": "filename", "resolution": 128, **b}
        for b in backends or ({},)
    ]
    return import_small({"train_batch_size": 1}, backends=named).plan


def shown_in(plan: Plan, *folders: Path, most: int = PER_PAGE) -> list[Shown]:
    of_id = dict(zip((each.id for each in plan.identity.backends), folders, strict=True))
    found = survey_data(plan, of_id, max_px=MAX_PX, on_progress=lambda *_: None)
    return shown_of(found.chosen, found.files, MAX_PX, most)


def picture(path: Path, size: tuple[int, int], seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, size).save(path)


def cell(page: Image.Image, number: int) -> Image.Image:
    """The square with the image of one cell of the first row."""
    return page.crop((10 + 250 * number, 28, 250 + 250 * number, 268))


def words(page: Image.Image, number: int) -> Image.Image:
    """What is written below the image."""
    return page.crop((10 + 250 * number, 268, 255 + 250 * number, 332))


def colours_in(image: Image.Image) -> set[Any]:
    return {colour for _, colour in image.getcolors(1 << 20) or ()}


def test_an_image_on_the_sheet_has_the_pixels_that_are_encoded(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", (300, 200), seed=1)
    picture(tmp_path / "in" / "b.png", (200, 300), seed=2)

    shown = shown_in(plan_of(), tmp_path / "in")
    (file,) = write_contact_sheet(tmp_path / "sheet.png", shown, 2)

    with Image.open(file) as page:
        for number, each in enumerate(shown):
            encoded = load_rgb(each.file, each.crop.geometry)
            left, top = ((240 - side) // 2 for side in encoded.size)
            drawn = cell(page, number).crop((left, top, left + encoded.width, top + encoded.height))
            assert drawn.tobytes() == encoded.tobytes()


def test_much_that_is_cut_away_and_what_is_enlarged_is_marked(tmp_path: Path) -> None:
    square = {"crop": True, "crop_aspect": "square", "crop_style": "center"}
    for name, size in {"a": (128, 128), "b": (256, 128), "c": (64, 64)}.items():
        picture(tmp_path / "in" / f"{name}.png", size)

    shown = shown_in(plan_of(square), tmp_path / "in")
    (file,) = write_contact_sheet(tmp_path / "sheet.png", shown, 3)

    with Image.open(file) as page:
        marked = [LOUD in colours_in(words(page, number)) for number in range(3)]
    assert marked == [False, True, True]


def test_what_a_mask_leaves_out_is_red(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", (128, 128))
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.png")
    masked = plan_of(
        {"conditioning_data": "masks"},
        {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"},
    )

    (shown,) = shown_in(masked, tmp_path / "in", tmp_path / "masks")
    (file,) = write_contact_sheet(tmp_path / "sheet.png", [shown], 1)

    encoded = load_rgb(shown.file, shown.crop.geometry)
    with Image.open(file) as page:
        drawn = cell(page, 0).crop((56, 56, 184, 184))
    left, right = (0, 0, 64, 128), (64, 0, 128, 128)
    assert drawn.crop(left).tobytes() == encoded.crop(left).tobytes()
    red = Image.blend(encoded, Image.new("RGB", encoded.size, "red"), 0.5)
    assert drawn.crop(right).tobytes() == red.crop(right).tobytes()


def test_few_images_of_many_are_evenly_spread_and_small_backends_keep_theirs(
    tmp_path: Path,
) -> None:
    for n in range(40):
        picture(tmp_path / "many" / f"{n:02}.png", (128, 128), seed=n)
    for n in range(3):
        picture(tmp_path / "few" / f"{n}.png", (128, 128), seed=50 + n)
    both = plan_of({}, {"id": "dogs"})

    shown = shown_in(both, tmp_path / "many", tmp_path / "few", most=13)

    names = [each.crop.item.path for each in shown]
    assert names == [f"{n:02}.png" for n in range(0, 40, 4)] + ["0.png", "1.png", "2.png"]
    assert [each.crop.item.path for each in few_of(shown, 4)] == [
        *("00.png", "20.png", "0.png", "1.png"),
    ]
    assert list(spread(range(100_000), 4)) == [0, 25_000, 50_000, 75_000]


def test_an_image_is_shown_with_all_its_crops(tmp_path: Path) -> None:
    for n in range(9):
        picture(tmp_path / "in" / f"{n}.png", (300, 200), seed=n)
    plan = plan_of({"crop": True, "crops_per_image": 3})

    shown = shown_in(plan, tmp_path / "in", most=7)
    (file,) = write_contact_sheet(tmp_path / "sheet.png", shown, 9)

    places = [(each.crop.item.path, each.crop.number, each.crop.num_crops) for each in shown]
    assert places == [
        *(("0.png", n, 3) for n in range(3)),
        *(("3.png", n, 3) for n in range(3)),
        ("6.png", 0, 3),
    ]
    with Image.open(file) as page:
        for number in range(3):
            encoded = load_rgb(tmp_path / "in" / "0.png", shown[number].crop.geometry, name="0")
            middle = cell(page, number).crop((56, 56, 184, 184))
            assert middle.tobytes() == encoded.tobytes()
    assert [(each.crop.item.path, each.crop.number) for each in few_of(shown, 3)] == [
        ("0.png", 0),
        ("0.png", 1),
        ("0.png", 2),
    ]


def test_many_images_are_pages_in_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", (128, 128))
    (shown,) = shown_in(plan_of(), tmp_path / "in")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "mine.txt").write_text("mine")

    files = write_contact_sheet(tmp_path / "pages", [shown] * (PER_PAGE + 1), 5000)

    assert [file.name for file in files] == ["page-001.jpg", "page-002.jpg"]
    assert {file.name for file in (tmp_path / "pages").iterdir()} == {
        *("page-001.jpg", "page-002.jpg", "mine.txt"),
    }
    sizes = [Image.open(file).size for file in files]
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] > 5 * sizes[1][1]


def test_an_image_that_is_gone_meanwhile_is_a_cell_that_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", (128, 128))
    (shown,) = shown_in(plan_of(), tmp_path / "in")
    (tmp_path / "in" / "a.png").unlink()

    (file,) = write_contact_sheet(tmp_path / "sheet.png", [shown], 1)

    with Image.open(file) as page:
        assert colours_in(cell(page, 0)) == {(255, 255, 255)}
        assert LOUD in colours_in(words(page, 0))


@pytest.mark.parametrize("name", ["猫\u202e\x1b[31m.png", "x" * 150 + ".png"])
def test_any_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "in" / name, (128, 128))

    (file,) = write_contact_sheet(tmp_path / "sheet.webp", shown_in(plan_of(), tmp_path / "in"), 1)

    with Image.open(file) as page:
        assert page.width == 6 * 250 + 10
