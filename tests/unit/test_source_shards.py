"""Sources whose rows come in large files: what a newer revision takes over."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.pictures import picture
from trainer_core.progress import SilentReporter
from trainer_core.sources.places import Complete, open_place
from trainer_core.sources.rows import Row, Tally
from trainer_core.sources.shards import OpenShard, Shard, ShardReader, ShardSplit, store_shards
from trainer_core.sources.tables import json_lines


class Source:
    """Revisions of a source in a folder; ``read`` names the shards that were read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.read: list[str] = []

    def fetch(self, revision: str, names: Sequence[str]) -> tuple[Complete, Path]:
        """Store two rows of each shard."""
        tally, reporter = Tally(), SilentReporter()
        with open_place(self._root, "source", {}, revision, reporter) as place:
            place.prepare()
            reader = ShardReader(
                place=place,
                reporter=reporter,
                tally=tally,
                stage="fetching",
                max_file_bytes=1 << 20,
            )
            split = ShardSplit(
                shards=tuple(Shard(name=n, oid=f"digest-{n}", size_bytes=1) for n in names),
                fetch=lambda shard: place.folder / shard.name,
                read=self._read,
                key_of=lambda number, _: f"{number:04d}",
                first=0,
                end=None,
                total=None,
            )
            store_shards(split, reader)
            place.finish(Complete(pictures=tally.pictures, left_out=0, notes=()))
            complete = place.complete()
            assert complete is not None, "what was counted is there"
            return complete, place.files

    def _read(self, shard: Shard, _file: Path, before: int) -> OpenShard:
        self.read.append(shard.name)
        rows = (
            Row(
                key=f"{before + n:04d}",
                token=f"{shard.oid}:{n}",
                suffix=".png",
                label="row",
                captions=(f"{shard.name} {n}",),
                write=lambda to, n=n: to.write_bytes(picture(n)),  # type: ignore[misc]
            )
            for n in range(2)
        )
        return OpenShard(num_rows=2, rows=enumerate(rows))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "sources")


def test_a_shard_that_stood_elsewhere_in_several_revisions_is_taken_over_once(
    source: Source,
) -> None:
    source.fetch("1", ["a"])
    source.fetch("2", ["b", "a"])
    complete, files = source.fetch("3", ["c", "b", "a"])

    assert source.read == ["a", "b", "c"]
    assert complete.pictures == 6
    texts = [file.read_text() for file in sorted(files.glob("*.txt"))]
    assert texts == ["c 0\n", "c 1\n", "b 0\n", "b 1\n", "a 0\n", "a 1\n"]


def test_a_shard_whose_pictures_were_deleted_since_is_read_again(source: Source) -> None:
    _, files = source.fetch("1", ["a"])
    (files / "0001.png").unlink()
    complete, _ = source.fetch("2", ["b", "a"])

    assert source.read == ["a", "b", "a"]
    assert complete.pictures == 4


def test_what_an_older_revision_left_half_makes_way(tmp_path: Path, source: Source) -> None:
    with open_place(tmp_path / "sources", "source", {}, "1", SilentReporter()) as place:
        place.prepare()
        for name in ("hub", "tars"):
            (place.folder / name).mkdir()
            (place.folder / name / "large.part").write_bytes(b"half")
    _, files = source.fetch("2", ["a"])

    assert not list((tmp_path / "sources").rglob("*.part"))
    assert len(list(files.glob("*.png"))) == 2


def test_a_caption_file_is_taken_over_byte_for_byte(source: Source) -> None:
    _, files = source.fetch("1", ["a"])
    text = "one\x85two\r\n  three".encode()
    (files / "0000.txt").write_bytes(text)
    _, newer = source.fetch("2", ["a", "b"])

    assert (newer / "0000.txt").read_bytes() == text
    assert source.read == ["a", "b"]


def test_a_text_in_json_lines_may_have_other_line_breaks_of_unicode(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028two\x85three"}, {"text": "four"}]
    file = tmp_path / "metadata.jsonl"
    file.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")

    assert json_lines(file) == rows
