"""`reverie configure` looks at a folder of pictures before it proposes anything."""

from pathlib import Path

from PIL import Image

from services.cli.configure_pictures import Pictures, look_at, summary_of


def picture(path: Path, size: tuple[int, int] = (40, 30), caption: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "white").save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def look(folder: Path, masks: Path | None = None) -> Pictures:
    return look_at(folder, masks, lambda done, total: None)


def test_sizes_captions_and_files_that_cannot_be_used_are_found(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (40, 30), "a dog\n\nthe same dog\n")
    picture(tmp_path / "sub/b.jpg", (30, 60), " \n")
    picture(tmp_path / "c.webp")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "sub/b.jpg").read_bytes()[:200])
    (tmp_path / "film.mp4").write_text("no picture")

    found = look(tmp_path)

    by_name = {each.name: each for each in found.usable}
    assert by_name.keys() == {"a.png", "sub/b.jpg", "c.webp"}
    assert by_name["a.png"].captions == ("a dog", "the same dog")
    assert by_name["a.png"].caption_file == "a.txt"
    assert (by_name["sub/b.jpg"].width_px, by_name["sub/b.jpg"].height_px) == (30, 60)
    assert by_name["sub/b.jpg"].captions == ()
    assert "UTF-8" in (by_name["c.webp"].bad_caption or "")
    assert found.broken.keys() == {"torn.jpg"}
    told = " ".join(summary_of(found))
    for words in ("4 pictures", "1 of 3 pictures has a text file", "torn.jpg", "c.txt", "film.mp4"):
        assert words in told


def test_masks_are_found_among_the_pictures_and_elsewhere(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        picture(tmp_path / "photos" / name)
    for place in ("photos/masks/a.png", "photos/sub/Mask/b.png", "white/a.png", "white/sub/b.png"):
        picture(tmp_path / place)
    (tmp_path / "white/c.png").write_text("no mask")

    inside = look(tmp_path / "photos")
    elsewhere = look(tmp_path / "photos", tmp_path / "white")

    assert inside.holds_masks
    assert {each.name: each.mask for each in inside.usable} == {
        "a.jpg": "masks/a.png",
        "sub/b.jpg": "sub/Mask/b.png",
        "c.jpg": None,
    }
    assert not elsewhere.holds_masks
    assert {each.name: each.mask for each in elsewhere.usable} == {
        "a.jpg": "a.png",
        "sub/b.jpg": "sub/b.png",
    }
    assert "mask c.png" in elsewhere.broken["c.jpg"]


def test_a_sub_folder_that_is_named_has_masks_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", "white/a.png", "white/sub/b.png", "white/masks/c.png"):
        picture(tmp_path / name)

    found = look(tmp_path, tmp_path / "white")

    assert found.holds_masks
    assert {each.name: each.mask for each in found.usable} == {
        "a.jpg": "white/a.png",
        "sub/b.jpg": "white/sub/b.png",
    }


def test_pictures_of_masks_are_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "masks/venice.jpg")
    picture(tmp_path / "people/anna.jpg")

    found = look(tmp_path)

    assert {each.name for each in found.usable} == {"masks/venice.jpg", "people/anna.jpg"}
    assert found.masks is None
