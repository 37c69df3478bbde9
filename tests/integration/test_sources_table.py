"""Captions of a local folder from a table, by SimpleTuner's rules of its ``parquet`` block."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.support.pictures import picture
from trainer_core.config.simpletuner.source_types import (
    CaptionColumns,
    CaptionTable,
    FolderSource,
    PictureSource,
)
from trainer_core.progress import SilentReporter
from trainer_core.sources.errors import SourceError
from trainer_core.sources.fetching import FetchedSource, fetch_source
from trainer_core.sources.surroundings import Surroundings

ROWS: list[dict[str, Any]] = [
    {"id": "1", "text": " one\nline ", "tags": "t"},
    {"id": "in/2", "text": ["a", "b"], "tags": "t"},
    {"id": "3", "text": None, "tags": "from the tags"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "pics"
    (pictures / "in").mkdir(parents=True)
    for n, name in enumerate(("1.png", "in/2.png", "3.png", "not_in_it.png")):
        (pictures / name).write_bytes(picture(n))
    return pictures


def get(tmp_path: Path, file: Path, **keys: Any) -> FetchedSource:
    captions = CaptionColumns(columns=("text",), fallback=("tags",))
    own = {"path": str(file), "filename_column": "id", "captions": captions, "has_suffixes": False}
    source = PictureSource(
        place=FolderSource(folder="pics"),
        wants_captions=True,
        table=CaptionTable(**{**own, **keys}),
    )
    around = Surroundings(root=tmp_path / "sources", folders=(tmp_path,))
    return fetch_source("cats", source, around, SilentReporter())


def captions(found: FetchedSource) -> dict[str, str]:
    return {
        file.relative_to(found.folder).as_posix(): file.read_text()
        for file in found.folder.rglob("*.txt")
    }


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl"])
@pytest.mark.parametrize("has_suffixes", [False, True])
def test_captions_of_a_table(tmp_path: Path, folder: Path, kind: str, has_suffixes: bool) -> None:
    rows = [{**row, "id": row["id"] + ".png" * has_suffixes} for row in ROWS]
    file = tmp_path / f"table.{kind}"
    if kind == "parquet":
        listed = [
            {**r, "text": r["text"] if isinstance(r["text"], list) else [r["text"]]} for r in rows
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(listed), file)
    elif kind == "json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))

    found = get(tmp_path, file, has_suffixes=has_suffixes)

    assert captions(found) == {
        "1.txt": "one line\n",
        "in/2.txt": "a\nb\n",
        "3.txt": "from the tags\n",
        "not_in_it.txt": "not in it\n",
    }
    assert (found.folder / "in/2.png").samefile(folder / "in/2.png")
    (note,) = found.notes
    assert note == (
        f"cats: 1 picture not in table.{kind} have their names as captions: not_in_it.png"
    )
    assert get(tmp_path, file, has_suffixes=has_suffixes) == found


def test_another_table_and_another_picture_are_seen(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "table.json"
    nameless = [{"id": name, "text": "of no picture"} for name in ("", "..", "/")]
    file.write_text(json.dumps([*nameless, *ROWS]))
    old = get(tmp_path, file)
    file.write_text(json.dumps([{**ROWS[0], "text": "other"}, *ROWS[1:]]))
    (folder / "3.png").write_bytes(picture(30))

    new = get(tmp_path, file)

    assert captions(new)["1.txt"] == "other\n"
    assert (new.folder / "3.png").read_bytes() == picture(30)
    assert captions(old)["1.txt"] == "one line\n"


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("t.json", "[]", "has no column id (filename_column)"),
        ("t.json", '[{"id": 1}]', "has no column text (caption_column); its columns: id"),
        ("t.json", "{", "cannot be read"),
        ("t.json", "[" * 100_000, "cannot be read"),
        ("t.json", '{"a": 1}', "list of objects"),
        ("t.parquet", "PAR1", "no parquet file"),
        ("t.txt", "x", "has to be .parquet, .json or .jsonl"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(
    tmp_path: Path, folder: Path, name: str, body: str, words: str
) -> None:
    (tmp_path / name).write_text(body)
    with pytest.raises(SourceError) as caught:
        get(tmp_path, Path(name))
    assert words in caught.value.message


def test_a_missing_folder_or_table_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="instance_data_dir names pics"):
        get(tmp_path, Path("t.json"))
    (tmp_path / "pics").mkdir()
    with pytest.raises(SourceError, match=r"names t.json, which is in none of"):
        get(tmp_path, Path("t.json"))
