"""Rows of a source: each has a file of its own."""

import random
from pathlib import Path
from typing import Any

import pytest

from trainer_core.config.simpletuner.source_types import (
    CaptionColumns,
    CaptionTable,
    HubSource,
    PictureSource,
    RowFilter,
)
from trainer_core.sources.captions import captions_of_row
from trainer_core.sources.folder_table import rows_of_folder
from trainer_core.sources.hub import Commit, picture_rows
from trainer_core.sources.hub_layout import HubFile, SplitFiles
from trainer_core.sources.rows import Row, caption_text, own_key, safe_key
from trainer_core.sources.tables import NamedCaptions

COLUMNS = CaptionColumns(columns=("text",))


def test_long_names_that_begin_alike_have_keys_of_their_own(tmp_path: Path) -> None:
    paths = ["a.png", "a.jpg", *(f"{'a cat, ' * 20}{n}.png" for n in range(3))]
    place = HubSource(
        dataset="someone/cats",
        revision=None,
        split="train",
        config=None,
        image_column="image",
        captions=COLUMNS,
        rows=RowFilter(),
    )
    split = SplitFiles(
        kind="pictures", files=tuple(HubFile(path=p, size_bytes=1, oid=p) for p in paths)
    )
    rows = picture_rows(
        Commit(name="someone/cats", sha="1", token=None),
        split,
        PictureSource(place=place, wants_captions=False),
        place,
        tmp_path,
    )
    keys = [row.key for row in rows]

    assert keys[0] == "a"
    assert len(set(keys)) == len(paths)


@pytest.mark.parametrize("captions", [("a cat \ud83d", "two"), "a cat \ud83d\ntwo\n"])
def test_half_a_character_does_not_end_a_fetch(captions: tuple[str, ...] | str) -> None:
    row = Row(key="a", token="", suffix="", label="a", captions=captions, write=lambda _: None)
    assert caption_text(row) == "a cat ?\ntwo\n"


def test_lists_in_lists_of_captions_are_read_to_a_bound() -> None:
    deep: list[Any] = ["lost"]
    for _ in range(900):
        deep = [deep]
    assert captions_of_row({"text": [["one"], {"a": ["two"]}, deep]}, COLUMNS) == ("one", "two")


def test_pictures_with_one_stem_have_captions_of_their_own(tmp_path: Path) -> None:
    table = CaptionTable(path="t", filename_column="id", captions=COLUMNS, has_suffixes=True)
    captions = {"in/a.png": ("one",), "in/a.JPG": ("two",)}
    named = NamedCaptions(name="t", table=table, captions=captions)
    rows = list(rows_of_folder(tmp_path, dict.fromkeys(captions, "1"), named))

    assert rows[0].key == "in/a"
    assert rows[1].key != rows[0].key
    assert [row.captions for row in rows] == [("one",), ("two",)]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("in/a b.png", "in/a b"),
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/.hidden.png", "abs/hidden"),
        ("//abs/b.png", "abs/b"),
        ("///b.png", "b"),
        ("\\\\host\\b.png", "host/b"),
        (" //abs/b.png", "abs/b"),
        ("a//b.png", "a/b"),
        ("x/ . ../\t..\x1c../. ./y.png", "x/y"),
        ("x/.\u2028./..\x00../y.png", "x/_../y"),
        ("a\\b\x07.png", "a/b_"),
        ("a.png/b.png", "a.png_/b"),
        ("v1.5/b.png", "v1.5/b"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_a_path_of_a_source_becomes_a_safe_one(path: str, key: str) -> None:
    assert safe_key(path) == key


def test_no_name_leads_out_of_the_folder() -> None:
    drawn = random.Random(1)
    for _ in range(5000):
        path = "".join(drawn.choices(" ./\\\t\x00\x1c\u2028a.png..\udce9~:", k=drawn.randrange(14)))
        parts = safe_key(path).split("/")
        assert all(parts), path
        assert not any(part.startswith((".", " ")) for part in parts), path


def test_a_long_name_is_one_that_a_disk_takes(tmp_path: Path) -> None:
    key = safe_key("猫" * 300 + ".png")
    assert key == "猫" * 66
    (tmp_path / f"{own_key(key, 'x', {key.casefold()})}.jpeg").write_bytes(b"")
