"""Tar files become folders of pictures: those of this machine."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.support.pictures import picture
from tests.support.stopping import Stopping
from tests.support.tars import content, get, place_of, tar_of
from trainer_core.process.control import StopRequestedError
from trainer_core.sources.errors import SourceError
from trainer_core.sources.tar_names import expanded_braces
from trainer_core.sources.tar_places import captions_in_index

LONG = "a long name, " * 12 + "of a cat"


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
