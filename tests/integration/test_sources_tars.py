"""Tar files become folders of pictures: those of this machine, at addresses, and on the Hub."""

import gzip
import io
import ipaddress
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.support.file_server import File, FileServer
from tests.support.hub import HubServer
from tests.support.pictures import picture
from tests.support.stopping import Stopping
from trainer_core.config.simpletuner.source_types import (
    CaptionColumns,
    HubSource,
    PictureSource,
    RowFilter,
    TarSource,
)
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.fetching import FetchedSource, fetch_source
from trainer_core.sources.surroundings import Surroundings
from trainer_core.sources.tar_names import expanded_braces
from trainer_core.sources.tar_places import captions_in_index
from trainer_core.web.fetching import FetchError
from trainer_core.web.resuming import Remote, fetch_on

OWN, INSIDE = "127.0.0.2", "127.0.0.1"
LONG = "a long name, " * 12 + "of a cat"


def tar_of(
    files: Mapping[str, bytes] | Sequence[tuple[str, bytes]], format_: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as opened:
        for name, body in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            opened.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def place_of(source: object, **keys: Any) -> TarSource:
    own = {"metadata": None, "subfolder": "", "has_first_dots": False, "are_whole_texts": False}
    return TarSource(source=str(source), **{**own, "max_file_bytes": None, **keys})


def source_of(place: TarSource, **options: Any) -> PictureSource:
    return PictureSource(place=place, **{"wants_captions": True, **options})


def get(
    tmp_path: Path,
    place: TarSource,
    reporter: SilentReporter | None = None,
    *,
    allowed: str = f"{OWN}/32",
    **options: Any,
) -> FetchedSource:
    around = Surroundings(
        root=tmp_path / "sources",
        folders=(tmp_path,),
        allowed=(ipaddress.ip_network(allowed),),
    )
    reporter = reporter or SilentReporter()
    return fetch_source("tars", source_of(place, **options), around, reporter)


def content(found: FetchedSource) -> dict[str, tuple[bytes, str]]:
    """Path of each picture without its suffix → its bytes and its captions."""
    return {
        file.relative_to(found.folder).with_suffix("").as_posix(): (
            file.read_bytes(),
            text.read_text() if (text := file.with_suffix(".txt")).exists() else "",
        )
        for file in sorted(found.folder.rglob("*"))
        if file.is_file() and file.suffix != ".txt"
    }


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(OWN) as running:
        yield running


def test_samples_with_every_kind_of_caption(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    metadata = {"caption": "from json\nand more", "captions": ["b", "from json\nand more"], "n": 1}
    (folder / "a.tar").write_bytes(
        tar_of(
            {
                "1.cls": b"3",
                "1.txt": b"one  cat\ntwo\n",
                "1.json": json.dumps({"caption": "not it"}).encode(),
                "1.png": picture(1),
                "./in/1.jpg": picture(2, kind="JPEG"),
                "in/1.json": json.dumps(metadata).encode(),
                "in/deep/1.webp": picture(3, kind="WEBP"),
                f"{LONG}.png": picture(4),
                f"{LONG}.txt": b"long",
                "both.png": picture(5),
                "both.jpg": picture(6, kind="JPEG"),
                "both.txt": b"the first",
                "dead.png": picture(7)[:80],
                "latin.png": picture(8),
                "latin.txt": b"\xe9t\xe9",
                "odd.png": picture(8),
                "odd.json": b"{",
                "only.txt": b"no picture",
                "._1.png": b"of a system",
            }
        )
    )
    (folder / "in/a.tar").write_bytes(tar_of({"1.png": picture(9)}, tarfile.GNU_FORMAT))
    (folder / "list.zip").write_bytes(b"PK")

    found = get(tmp_path, place_of("data"))

    assert content(found) == {
        "a/1": (picture(1), "one  cat\ntwo\n"),
        "a/in/1": (picture(2, kind="JPEG"), "from json and more\nb\n"),
        "a/in/deep/1": (picture(3, kind="WEBP"), ""),
        f"a/{LONG}": (picture(4), "long"),
        "a/both": (picture(5), "the first"),
        "in-a/1": (picture(9), ""),
    }
    (note,) = found.notes
    assert note.startswith("tars: 3 rows are left out: ")
    assert "a.tar, dead.png: the picture is damaged" in note
    assert "latin.txt: not UTF-8 text" in note
    assert "odd.json is no JSON" in note
    assert get(tmp_path, place_of("data")) == found
    whole = get(tmp_path, place_of("data/a.tar", are_whole_texts=True))
    assert content(whole)["a/1"][1] == "one  cat two\n"
    names = get(tmp_path, place_of("data"), wants_captions=False)
    assert content(names)["a/latin"] == (picture(8), "")


@pytest.mark.parametrize("has_first_dots", [False, True])
def test_where_a_key_ends(tmp_path: Path, has_first_dots: bool) -> None:
    (tmp_path / "a.tar").write_bytes(
        tar_of(
            {"1.mask.png": picture(1), "1.png": picture(2), "1.txt": b"x", "v1.5.png": picture(3)}
        )
    )
    found = content(get(tmp_path, place_of("a.tar", has_first_dots=has_first_dots)))
    if has_first_dots:
        assert found == {"a/1": (picture(2), "x"), "a/v1": (picture(3), "")}
    else:
        assert found == {
            "a/1.mask": (picture(1), ""),
            "a/1": (picture(2), "x"),
            "a/v1.5": (picture(3), ""),
        }


def test_nothing_leaves_the_folder_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(9))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name in ("/tmp/abs.png", "../up.png", "in/../../up.png", "good.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture(1))
            opened.addfile(info, io.BytesIO(picture(1)))
        for name, kind, target in (
            ("link.png", tarfile.SYMTYPE, "../secret.png"),
            ("hard.png", tarfile.LNKTYPE, "../secret.png"),
            ("device.png", tarfile.CHRTYPE, ""),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("folder.png", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            opened.addfile(info)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())

    found = get(tmp_path, place_of("a.tar"))

    assert content(found) == {"a/good": (picture(1), "")}
    assert not (tmp_path.parent / "up.png").exists()


def test_sizes_are_bounded(tmp_path: Path) -> None:
    small = picture(1)
    (tmp_path / "a.tar").write_bytes(tar_of({"1.png": small, "2.png": small + bytes(5000)}))
    found = get(tmp_path, place_of("a.tar", max_file_bytes=len(small)))
    assert list(content(found)) == ["a/1"]
    (note,) = found.notes
    assert "a.tar, 2.png: 5," in note
    assert "more than source_max_file_mb or max_file_size allows" in note
    two = get(tmp_path, place_of("a.tar"), max_rows=1)
    assert list(content(two)) == ["a/1"]


def _huge_pax_header() -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 20
    return info.tobuf() + bytes(3 << 20) + tar_of({"b.png": picture(1)})


def _header_that_leads_back() -> bytes:
    whole = bytearray(tar_of({"1.png": picture(1), "2.png": picture(2)}))
    start = 512 + (len(picture(1)) + 511) // 512 * 512
    whole[start + 124 : start + 136] = b"\xff" * 8 + (-1024).to_bytes(4, "big", signed=True)
    whole[start + 148 : start + 156] = b" " * 8
    total = sum(whole[start : start + 512])
    whole[start + 148 : start + 156] = f"{total:06o}\0 ".encode()
    return bytes(whole)


@pytest.mark.parametrize(
    ("body", "pictures", "words"),
    [
        (tar_of({"1.png": picture(1), "2.png": picture(2)})[:1200], 1, "it ends early"),
        (gzip.compress(tar_of({"1.png": picture(1)})), 0, "it is compressed"),
        (tar_of({"1.png": picture(1)}) * 2, 1, "more behind its end, as in joined tar files"),
        (b"", 0, "empty file"),
        (_huge_pax_header(), 0, "a header is too long"),
        (_header_that_leads_back(), 1, "no whole tar file"),
    ],
)
def test_a_broken_tar_file_is_named_and_the_others_are_used(
    tmp_path: Path, body: bytes, pictures: int, words: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "bad.tar").write_bytes(body)
    with pytest.raises(SourceError, match=r"^tars: 1 of 1 tar file cannot be used: bad.tar: no "):
        get(tmp_path, place_of("data"))
    with pytest.raises(SourceError, match="cannot be used"):
        get(tmp_path, place_of("data"))
    (folder / "good.tar").write_bytes(tar_of({"1.png": picture(3)}))

    found = get(tmp_path, place_of("data"))

    assert len(content(found)) == 1 + pictures
    (note,) = found.notes
    assert note.startswith("tars: 1 row is left out: bad.tar: no whole tar file")
    assert words in note


def test_captions_of_webshart_s_indexes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    for name, start in (("0.tar", 0), ("in/1.tar", 10)):
        files = {f"{start + n}.png": picture(start + n) for n in range(3)}
        (folder / name).write_bytes(tar_of({**files, f"{start}.txt": b"beside"}))
    entry = {"offset": 512, "length": 9}
    listed = [
        {"path": "10.png", **entry, "captions": "of a list"},
        {"fname": "./11.png", **entry, "json_metadata": {"caption": "deeper"}},
        {"path": "12.png", **entry},
    ]
    (folder / "0.json").write_text(
        json.dumps(
            {
                "files": {
                    "0.png": {**entry, "captions": ["a", "b"]},
                    "1.png": {**entry, "caption": "older"},
                }
            }
        )
    )
    apart = tmp_path / "apart/in"
    apart.mkdir(parents=True)
    (apart / "1.json").write_text(json.dumps({"files": listed}))

    beside = content(get(tmp_path, place_of("data")))
    assert [text for _, text in beside.values()] == ["a\nb\n", "older\n", "", "beside", "", ""]
    found = get(tmp_path, place_of("data", metadata="apart"))
    texts = [text for _, text in content(found).values()]
    assert texts == ["beside", "", "", "of a list\n", "deeper\n", ""]
    assert found.notes == ("tars: metadata has no JSON file for 1 tar file: 0.tar",)
    (apart / "1.json").write_text(json.dumps({"files": {"10.png": {"captions": "newer"}}}))
    assert content(get(tmp_path, place_of("data", metadata="apart")))["in-1/10"][1] == "newer\n"
    with pytest.raises(SourceError, match="metadata names nowhere, which is no address"):
        get(tmp_path, place_of("data", metadata="nowhere"))
    with pytest.raises(SourceError, match="no index of a tar file"):
        captions_in_index(b"[1]", "x.json")


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


def test_an_interrupted_fetch_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(4):
        files = {f"{m}.png": picture(n * 50 + m) for m in range(30)}
        (folder / f"{n}.tar").write_bytes(tar_of(files))
    with pytest.raises(StopRequestedError):
        get(tmp_path, place_of("data"), Stopping(at=70))
    (half,) = tmp_path.glob("sources/*/*/files")
    assert 10 <= len(list(half.rglob("*.png"))) < 120
    assert not list(tmp_path.glob("sources/*/*/complete.json"))

    found = get(tmp_path, place_of("data"))

    assert {body for body, _ in content(found).values()} == {
        picture(n * 50 + m) for n in range(4) for m in range(30)
    }
    assert all((folder / f"{n}.tar").is_file() for n in range(4)), "sources stay as they are"


def test_datasets_of_the_hub(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = f"{hub_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    samples = {"a.jpg": picture(1, kind="JPEG"), "a.txt": b"text", "a.json": b'{"long": "words"}'}
    hub_server.add_dataset(
        "someone/shards",
        {
            "data/0.tar": tar_of(samples),
            "data/1.tar": tar_of({"b.png": picture(2)}),
            "other/2.tar": tar_of({"c.png": picture(3)}),
        },
    )
    index = json.dumps({"files": {"b.png": {"captions": "indexed"}}}).encode()
    hub_server.add_dataset("someone/metadata", {"data/1.json": index})

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
    hub_server.failing_with = 503
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


def test_names_of_several_files() -> None:
    assert expanded_braces("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expanded_braces("{a,b}/{1..2}") == ["a/1", "a/2", "b/1", "b/2"]
    assert expanded_braces("{x}.tar") == ["{x}.tar"]
    with pytest.raises(SourceError, match="more than 100,000"):
        expanded_braces("{0..999}{0..999}.tar")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing/of/this", "which is no address, no dataset of the Hub"),
        ("empty", "names empty, which has no .tar file"),
    ],
)
def test_a_source_that_is_not_there_is_told(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"^tars: ") as caught:
        get(tmp_path, place_of(source))
    assert words in caught.value.message
