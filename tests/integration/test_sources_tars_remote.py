"""Tar files at addresses and on the Hub become folders of pictures."""

import ipaddress
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.file_server import INSIDE, OWN, File, FileServer
from tests.support.hub import HubServer
from tests.support.pictures import picture
from tests.support.tars import content, get, place_of, tar_of
from trainer_core.config.simpletuner.source_types import (
    CaptionColumns,
    HubSource,
    PictureSource,
    RowFilter,
)
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.fetching import fetch_source
from trainer_core.sources.surroundings import Surroundings
from trainer_core.web.fetching import FetchError
from trainer_core.web.resuming import Remote, fetch_on


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def test_tar_files_at_addresses_with_dead_ones_and_one_that_leads_inside(
    server: FileServer, tmp_path: Path
) -> None:
    with FileServer(INSIDE) as inside:
        inside.files["/3.tar"] = File(body=tar_of({"3.png": picture(9)}))
        for n in range(3):
            body = tar_of({f"{n}.png": picture(n), f"{n}.txt": b"number %d" % n})
            server.files[f"/data/0{n}.tar"] = File(body=body, headers={"ETag": f'"{n}"'})
        server.files["/data/03.tar"] = File(status=302, headers={"Location": inside.url("/3.tar")})
        server.files["/data/00.json"] = File(
            body=json.dumps({"files": {"0.png": {"captions": "indexed"}}}).encode()
        )
        place = place_of(server.url("/data/{00..04}.tar"))

        found = get(tmp_path, place)

        assert inside.requests == []
    assert content(found) == {
        "00/0": (picture(0), "indexed\n"),
        "01/1": (picture(1), "number 1"),
        "02/2": (picture(2), "number 2"),
    }
    (note,) = found.notes
    assert note.startswith("tars: 2 rows are left out: ")
    assert f"{server.url('/data/04.tar')}: the server answers 404" in note
    assert "has no public address" in note
    server.files["/data/01.tar"] = File(
        body=tar_of({"1.png": picture(7)}), headers={"ETag": '"new"'}
    )
    server.requests.clear()
    newer = get(tmp_path, place)
    assert content(newer)["01/1"] == (picture(7), "")
    whole = [path for path in server.requests if path.endswith("02.tar")]
    assert len(whole) == 1, "asked for, and not fetched again"
    assert (newer.folder / "02/2.png").samefile(found.folder / "02/2.png")
    with pytest.raises(SourceError, match="no public address"):
        get(tmp_path, place_of(server.url("/data/{00..02}.tar")), allowed=f"{INSIDE}/32")


def test_a_large_download_goes_on_where_it_stopped(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(range(256)) * 4000
    server.files["/a"] = File(body=body, headers={"ETag": '"1"'}, has_ranges=True)
    remote = Remote(url=server.url("/a"), size_bytes=len(body), mark='"1"')
    to, seen = tmp_path / "a", list[int]()

    def fetch(tell: Any) -> None:
        fetch_on(
            remote,
            to,
            max_bytes=1 << 21,
            allowed=(ipaddress.ip_network(f"{OWN}/32"),),
            stopping=threading.Event(),
            tell=tell,
        )

    def stop(size_bytes: int) -> None:
        if size_bytes > 400_000:
            raise StopRequestedError("stop")

    with pytest.raises(StopRequestedError):
        fetch(stop)
    assert not to.exists()
    fetch(seen.append)
    assert to.read_bytes() == body
    assert seen[0] > 400_000
    assert server.headers[-1]["Range"].startswith("bytes=")
    to.unlink()
    (tmp_path / "a.part").write_bytes(b"of another content")
    server.files["/a"] = File(body=body, headers={"ETag": '"2"'}, has_ranges=True)
    fetch(seen.append)
    assert to.read_bytes() == body
    to.unlink()
    monkeypatch.setattr("trainer_core.web.resuming._FIRST_WAIT_S", 0.001)
    whole = File(body=body, headers={"ETag": '"1"'})
    for answer in (
        File(status=416),  # what is there is all, or more
        File(status=206, headers={"Content-Range": f"bytes 9-99/{len(body)}", "ETag": '"2"'}),
        File(status=206, headers={"Content-Range": "bytes 9-99/100", "ETag": '"1"'}),
    ):
        (tmp_path / "a.part").write_bytes(b"x" * 9)
        server.files["/a"] = replace(answer, then=whole)
        fetch(seen.append)
        assert to.read_bytes() == body
        to.unlink()
    server.files["/a"] = File(body=body[:9], declared_bytes=len(body), headers={"ETag": '"2"'})
    server.requests.clear()
    with pytest.raises(FetchError, match="connection broke"):
        fetch(seen.append)
    assert len(server.requests) == 4


def test_datasets_of_the_hub(on_the_hub: HubServer, tmp_path: Path) -> None:
    samples = {"a.jpg": picture(1, kind="JPEG"), "a.txt": b"text", "a.json": b'{"long": "words"}'}
    on_the_hub.add_dataset(
        "someone/shards",
        {
            "data/0.tar": tar_of(samples),
            "data/1.tar": tar_of({"b.png": picture(2)}),
            "other/2.tar": tar_of({"c.png": picture(3)}),
        },
    )
    index = json.dumps({"files": {"b.png": {"captions": "indexed"}}}).encode()
    on_the_hub.add_dataset("someone/metadata", {"data/1.json": index})

    place = place_of("someone/shards", metadata="someone/metadata", subfolder="data")
    found = get(tmp_path, place)

    assert content(found) == {
        "data-0/a": (picture(1, kind="JPEG"), "text"),
        "data-1/b": (picture(2), "indexed\n"),
    }
    own = {"dataset": "someone/shards", "revision": None, "split": "train", "config": None}
    for columns, text in ((("caption",), "text"), (("json.long", "txt"), "words\ntext\n")):
        captions = CaptionColumns(columns=columns, fallback=("description",))
        hub = HubSource(**own, image_column="image", captions=captions, rows=RowFilter())
        source = PictureSource(place=hub, wants_captions=True)
        around = Surroundings(root=tmp_path / "hub", folders=())
        rows = content(fetch_source("hub", source, around, SilentReporter()))
        assert len(rows) == 3
        assert rows["data-0/a"] == (picture(1, kind="JPEG"), text)
    on_the_hub.failing_with = 503
    with pytest.raises(UnreachableError):
        get(tmp_path / "new", place)
    assert get(tmp_path, place) == found


def test_files_of_one_name_in_several_places(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_core.sources.tar_places._FIRST_WAIT_S", 0.001)
    for n, folder in enumerate("ab"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        body = tar_of({"1.png": picture(n)})
        (tmp_path / "data" / folder / "0.tar").write_bytes(body)
        tag = {"ETag": f'"{folder}"'}
        server.files[f"/{folder}/0.tar"] = File(body=body, headers=tag, failures=2)
    (tmp_path / "data/a/0.json").write_text('{"samples": 1}')  # of some other program
    both = {"a-0/1": (picture(0), ""), "b-0/1": (picture(1), "")}
    seen = Heard()

    assert content(get(tmp_path, place_of("data/{a,b,a}/0.tar"), seen)) == both
    assert content(get(tmp_path, place_of(server.url("/{a,b}/0.tar")))) == both
    by_query = get(tmp_path, place_of(server.url("/a/0.tar?part={0..2}")))
    assert [body for body, _ in content(by_query).values()] == [picture(0)] * 3
    assert "part" not in "".join(content(by_query))
    server.files["/a/0.json"] = File(body=b"{}" + b" " * 999, declared_bytes=-1)
    monkeypatch.setattr("trainer_core.sources.tar_places._MAX_INDEX_BYTES", 500)
    with pytest.raises(SourceError, match=r"0\.json: it is larger than 500 bytes"):
        get(tmp_path, place_of(server.url("/{a,b}/0.tar"), max_file_bytes=9999))
    (line,) = [text for text in seen.lines if "no index" in text]
    assert line.startswith("0.json is no index of a tar file")
