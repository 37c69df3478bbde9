"""Datasets of the Hub in each layout that people publish, through a local Hub."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.support.hub import HubServer
from tests.support.pictures import picture
from tests.support.stopping import Stopping
from tests.support.tars import content
from trainer_core.config.simpletuner.source_types import (
    CaptionColumns,
    HubSource,
    PictureSource,
    RowFilter,
)
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter
from trainer_core.sources import hub
from trainer_core.sources.errors import SourceError
from trainer_core.sources.fetching import FetchedSource, fetch_source
from trainer_core.sources.surroundings import Surroundings

NAME = "someone/cats"

pytestmark = pytest.mark.usefixtures("on_the_hub")


def source_of(*columns: str, **keys: Any) -> PictureSource:
    own = {
        "dataset": NAME,
        "revision": None,
        "split": "train",
        "config": None,
        "image_column": "image",
        "captions": CaptionColumns(columns=columns or ("text",), fallback=("description",)),
        "rows": RowFilter(),
    }
    more = {k: keys.pop(k) for k in ("max_rows", "wants_captions", "max_file_bytes") if k in keys}
    return PictureSource(place=HubSource(**{**own, **keys}), **{"wants_captions": True, **more})


def get(
    tmp_path: Path, source: PictureSource, reporter: SilentReporter | None = None
) -> FetchedSource:
    around = Surroundings(root=tmp_path / "sources", folders=(tmp_path,))
    return fetch_source("cats", source, around, reporter or SilentReporter())


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A file as ``datasets`` writes it: the picture as an object of bytes and path."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def row(number: int, text: Any, **more: Any) -> dict[str, Any]:
    image = {"bytes": picture(number), "path": f"{number}.png"}
    return {"image": image, "text": text, "description": None, **more}


def test_rows_of_parquet_files_with_every_kind_of_caption(
    hub_server: HubServer, tmp_path: Path
) -> None:
    first = [row(0, "one\nline"), row(1, ""), row(2, None, description="from below")]
    second = [row(3, "three"), {"image": None, "text": "none"}, row(5, " five ")]
    second[0]["image"]["bytes"] = b"no picture"
    hub_server.add_dataset(
        NAME,
        {
            "README.md": b"---\nlicense: mit\n---\n# Cats",
            "data/train-00000-of-00002.parquet": parquet(first),
            "data/train-00001-of-00002.parquet": parquet(second),
            "data/test-00000-of-00001.parquet": parquet([row(9, "of the test")]),
            "loader.py": b"raise SystemExit",
        },
    )

    found = get(tmp_path, source_of())

    assert content(found) == {
        "train/00000000": (picture(0), "one line\n"),
        "train/00000001": (picture(1), ""),
        "train/00000002": (picture(2), "from below\n"),
        "train/00000005": (picture(5), "five\n"),
    }
    (note,) = found.notes
    assert note.startswith("cats: 2 rows are left out: ")
    assert "train row 3: not a picture of a known format" in note
    assert "train row 4: column image holds no picture" in note
    assert content(get(tmp_path, source_of(split="test"))) == {
        "test/00000000": (picture(9), "of the test\n")
    }


def test_several_columns_lists_and_nested_columns_give_several_captions(
    hub_server: HubServer, tmp_path: Path
) -> None:
    rows = [row(0, ["a", "b\nc"], more={"long": "a long one"}, short="a")]
    hub_server.add_dataset(NAME, {"train.parquet": parquet(rows)})
    found = get(tmp_path, source_of("text", "short", "more.long"))
    assert content(found)["train/00000000"][1] == "a\nb c\na long one\n"
    assert content(get(tmp_path, source_of(wants_captions=False)))["train/00000000"][1] == ""


def test_rows_are_filtered_cut_and_counted_by_simpletuners_rules(
    hub_server: HubServer, tmp_path: Path
) -> None:
    quality = [{"clip": 0.2, "look": 6.0}, {"clip": 0.4, "look": 6.0}, None, {"look": 9.0}]
    rows = [
        row(
            n, str(n), collection="art" if n < 8 else "photo", quality=quality[n % 4], width=100 * n
        )
        for n in range(12)
    ]
    hub_server.add_dataset(
        NAME, {f"data/train-0000{k}-of-00002.parquet": parquet(rows[6 * k :][:6]) for k in (0, 1)}
    )
    kept = RowFilter(
        collections=("art",), quality_column="quality", thresholds={"clip": 0.3}, min_width=200
    )
    assert set(content(get(tmp_path, source_of(rows=kept)))) == {"train/00000005"}
    assert set(content(get(tmp_path, source_of(split="train[4:8]")))) == {
        f"train/{n:08d}" for n in range(4, 8)
    }
    few = content(get(tmp_path, source_of(max_rows=2)))
    assert set(few) == {"train/00000000", "train/00000001"}


def test_folders_of_pictures_with_tables_or_text_files(
    hub_server: HubServer, tmp_path: Path
) -> None:
    lines = [{"file_name": "a.png", "text": "first"}, {"file_name": "in/b.png", "text": ["x", "y"]}]
    hub_server.add_dataset(
        NAME,
        {
            "train/a.png": picture(0),
            "train/in/b.png": picture(1),
            "train/c.png": picture(2),
            "train/c.txt": b"beside it\nin two lines\n",
            "train/metadata.jsonl": "\n".join(map(json.dumps, lines)).encode(),
            "test/d.png": picture(3),
            "test/metadata.csv": b"file_name,text\nd.png,fourth\n",
            ".cache/e.png": picture(4),
        },
    )
    assert content(get(tmp_path, source_of())) == {
        "train/a": (picture(0), "first\n"),
        "train/in/b": (picture(1), "x\ny\n"),
        "train/c": (picture(2), "beside it\nin two lines\n"),
    }
    assert content(get(tmp_path, source_of(split="test"))) == {"test/d": (picture(3), "fourth\n")}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"metadata.csv": b"file_name,text\n" + b"a.png,x\n" * 4}, "more than 3 rows: give each"),
        ({"metadata.jsonl": b"{}\n" * 4}, "more than 3 rows: give each folder of pictures its own"),
        ({"metadata.csv": b"x," * 1000 + b"y\n"}, "it has more than 1,000 columns"),
    ],
)
def test_a_table_has_a_bounded_number_of_rows_and_columns(
    table: dict[str, bytes],
    words: str,
    hub_server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "MAX_ROWS", 3)  # a million takes seconds
    ((name, body),) = table.items()
    hub_server.add_dataset(NAME, {"a.png": picture(0), name: body})

    with pytest.raises(SourceError, match=f"cats: {name} .*{words}"):
        get(tmp_path, source_of())


def test_the_card_names_configurations_and_files(hub_server: HubServer, tmp_path: Path) -> None:
    card = """---
configs:
- config_name: small
  data_files: "few/*.parquet"
- config_name: large
  default: true
  data_files:
  - split: train
    path: ["many/a-*.parquet", "many/**/c.parquet"]
  - split: held
    path: many/b.parquet
---"""
    hub_server.add_dataset(
        NAME,
        {
            "README.md": card.encode(),
            "few/x.parquet": parquet([row(0, "few")]),
            "many/a-1.parquet": parquet([row(1, "a")]),
            "many/b.parquet": parquet([row(2, "b")]),
            "many/d/e/c.parquet": parquet([row(3, "c")]),
        },
    )

    def texts(source: PictureSource) -> list[str]:
        return [text for _, text in content(get(tmp_path, source)).values()]

    assert texts(source_of()) == ["a\n", "c\n"]
    assert texts(source_of(split="held")) == ["b\n"]
    assert texts(source_of(config="small")) == ["few\n"]
    with pytest.raises(SourceError, match=r"no configuration none; set dataset_config to: small"):
        get(tmp_path, source_of(config="none"))
    with pytest.raises(SourceError, match=r"no split test; its splits: held, train"):
        get(tmp_path, source_of(split="test"))


def test_a_newer_commit_fetches_only_files_that_changed(
    hub_server: HubServer, tmp_path: Path
) -> None:
    shards = {
        f"data/train-0000{k}-of-00002.parquet": parquet([row(2 * k, "x"), row(2 * k + 1, "y")])
        for k in (0, 1)
    }
    hub_server.add_dataset(NAME, shards)
    old = get(tmp_path, source_of())
    asked = len(hub_server.requests)
    assert get(tmp_path, source_of()) == old
    assert not [each for each in hub_server.requests[asked:] if "/resolve/" in each]

    # One row comes first, so that all others have another number.
    hub_server.push(NAME, {"data/train-00000-of-00002.parquet": parquet([row(7, "new")])})
    asked = len(hub_server.requests)
    new = get(tmp_path, source_of())

    resolved = {e.rpartition("/")[2] for e in hub_server.requests[asked:] if "/resolve/" in e}
    assert resolved == {"train-00000-of-00002.parquet"}
    assert content(new) == {
        "train/00000000": (picture(7), "new\n"),
        "train/00000001": (picture(2), "x\n"),
        "train/00000002": (picture(3), "y\n"),
    }
    unchanged = new.folder / "train/00000001.png"
    assert unchanged.samefile(old.folder / "train/00000002.png")


def test_an_interrupted_fetch_goes_on_and_an_unreachable_hub_leaves_what_is_there(
    hub_server: HubServer, tmp_path: Path
) -> None:
    shards = {
        f"data/train-0000{k}-of-00003.parquet": parquet([row(20 * k + n, "x") for n in range(20)])
        for k in range(3)
    }
    hub_server.add_dataset(NAME, shards)
    stopping = Stopping(at=30)
    with pytest.raises(StopRequestedError):
        get(tmp_path, source_of(), stopping)
    assert not list(tmp_path.glob("sources/*/*/complete.json"))
    asked = len(hub_server.requests)
    found = get(tmp_path, source_of())
    assert [data for data, _ in content(found).values()] == [picture(n) for n in range(60)]
    again = [e for e in hub_server.requests[asked:] if e.startswith("GET") and "/resolve/" in e]
    assert 1 <= len(again) < 3
    assert not (found.folder.parent / "hub").exists()

    hub_server.failing_with = 503
    assert get(tmp_path, source_of()) == found
    with pytest.raises(SourceError, match="does not answer"):
        get(tmp_path, source_of(split="test"))


@pytest.mark.parametrize(
    ("files", "keys", "words"),
    [
        ({"cats.py": b"import os"}, {}, "set revision to refs/convert/parquet"),
        ({"README.md": b"# empty"}, {}, "no parquet files and no pictures"),
        ({"train.parquet": parquet([row(0, "x")])}, {"image_column": "img"}, "no column img"),
        ({"train.parquet": parquet([row(0, "x")])}, {"split": "train+test"}, "name one split"),
        ({"train.parquet": b"PAR1 no"}, {}, "no parquet file"),
        ({"train.parquet": parquet([{"image": None, "text": "x"}])}, {}, "no usable picture"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_told(
    hub_server: HubServer,
    tmp_path: Path,
    files: dict[str, bytes],
    keys: dict[str, Any],
    words: str,
) -> None:
    hub_server.add_dataset(NAME, files)
    with pytest.raises(SourceError) as caught:
        get(tmp_path, source_of(**keys))
    assert words in caught.value.message


def test_a_missing_caption_column_names_those_that_are_there(
    hub_server: HubServer, tmp_path: Path
) -> None:
    rows = [{"image": row(0, "")["image"], "text": "x"}]
    hub_server.add_dataset(NAME, {"train.parquet": parquet(rows)})
    with pytest.raises(SourceError, match=r"no column caption \(caption_column\).*image, text"):
        get(tmp_path, source_of("caption"))


def test_datasets_that_may_not_be_read_are_told(hub_server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no dataset someone/cats that you can read"):
        get(tmp_path, source_of())
    hub_server.add_dataset(NAME, {"train.parquet": parquet([row(0, "x")])}).is_gated = True
    with pytest.raises(SourceError, match="is gated"):
        get(tmp_path, source_of())
    assert len(content(get(tmp_path, source_of(token=hub_server.token)))) == 1
    stored = "".join(
        file.read_text() for file in (tmp_path / "sources").rglob("*.json*") if file.is_file()
    )
    assert hub_server.token not in stored
