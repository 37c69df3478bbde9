"""Lists of addresses become folders of pictures: what comes, what is left out, and goes on."""

import ipaddress
from pathlib import Path

import pytest

from tests.support.file_server import INSIDE, OWN, File, FileServer
from tests.support.pictures import picture
from tests.support.stopping import Stopping
from trainer_core.config.simpletuner.source_types import CsvSource, PictureSource
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter
from trainer_core.sources.errors import SourceError
from trainer_core.sources.fetching import FetchedSource, fetch_source
from trainer_core.sources.surroundings import Surroundings


def write_list(folder: Path, rows: list[tuple[str, str]], name: str = "list.csv") -> Path:
    lines = ["url,caption", *(f'{url},"{caption}"' for url, caption in rows)]
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def source_of(file: Path, **options: object) -> PictureSource:
    place = CsvSource(file=str(file), url_column="url", caption_column="caption")
    return PictureSource(place=place, wants_captions=True, **options)  # type: ignore[arg-type]


def get(
    tmp_path: Path, source: PictureSource, reporter: SilentReporter | None = None
) -> FetchedSource:
    around = Surroundings(
        root=tmp_path / "sources",
        folders=(tmp_path,),
        allowed=(ipaddress.ip_network(f"{OWN}/32"),),
    )
    return fetch_source("photos", source, around, reporter or SilentReporter())


def content(found: FetchedSource) -> dict[bytes, str]:
    """The bytes of each picture → its captions."""
    pictures = [file for file in found.folder.rglob("*") if file.suffix not in ("", ".txt")]
    captions = [file.with_suffix(".txt") for file in pictures]
    return {
        file.read_bytes(): text.read_text() if text.exists() else ""
        for file, text in zip(pictures, captions, strict=True)
    }


def test_pictures_come_as_they_are_and_what_is_wrong_is_named(
    server: FileServer, tmp_path: Path
) -> None:
    jpeg, png = picture(1, kind="JPEG"), picture(2)
    with FileServer(INSIDE) as inside:
        inside.files["/secret.png"] = File(body=picture(9))
        server.files = {
            "/a.jpg": File(body=jpeg),
            "/no-suffix": File(body=png),
            "/flaky.png": File(body=picture(3), failures=1),
            "/page.png": File(body=b"<html>sold</html>"),
            "/cut.png": File(body=picture(4)[:90]),
            "/huge.png": File(body=bytes(3 << 20)),
            "/inside.png": File(status=302, headers={"Location": inside.url("/secret.png")}),
        }
        rows = [
            (server.url("/a.jpg"), "a red\ncat"),
            (server.url("/no-suffix?size=1"), "a dog"),
            (server.url("/flaky.png"), ""),
            (server.url("/gone.png"), "gone"),
            (server.url("/page.png"), "page"),
            (server.url("/cut.png"), "cut"),
            (server.url("/huge.png"), "huge"),
            (server.url("/inside.png"), "inside"),
            ("file:///etc/passwd", "local"),
            (server.url("/a.jpg"), "the last one counts"),
        ]
        found = get(tmp_path, source_of(write_list(tmp_path, rows), max_file_bytes=1 << 20))
        assert inside.requests == []

    assert content(found) == {jpeg: "the last one counts\n", png: "a dog\n", picture(3): ""}
    assert {file.suffix for file in found.folder.iterdir()} == {".jpg", ".png", ".txt"}
    (note,) = found.notes
    assert note.startswith("photos: 6 rows are left out: ")
    asked = len(server.requests)
    again = get(tmp_path, source_of(tmp_path / "list.csv", max_file_bytes=1 << 20))
    assert (again, len(server.requests)) == (found, asked)


def test_an_interrupted_fetch_goes_on_and_leaves_no_half_file(
    server: FileServer, tmp_path: Path
) -> None:
    rows = []
    for n in range(120):
        server.files[f"/{n}.png"] = File(body=picture(n))
        rows.append((server.url(f"/{n}.png"), f"number {n}"))
    source = source_of(write_list(tmp_path, rows))
    with pytest.raises(StopRequestedError):
        get(tmp_path, source, Stopping(at=70))
    (folder,) = tmp_path.glob("sources/*/*/files")
    half = {file.name for file in folder.iterdir() if file.suffix == ".png"}
    assert 10 <= len(half) < 120
    assert not list(tmp_path.glob("sources/*/*/complete.json"))
    (folder.parent / "drafts").mkdir(exist_ok=True)
    (folder.parent / "drafts" / "x.part").write_bytes(b"half")  # as a kill leaves it
    with (folder.parent / "rows.jsonl").open("a") as state:
        state.write('["half a li')
    before = len(server.requests)

    found = get(tmp_path, source)

    assert content(found) == {picture(n): f"number {n}\n" for n in range(120)}
    # Of a line that a kill cut, the picture may come again; nothing else does.
    assert len(server.requests) - before <= 120 - len(half) + 33
    assert not (folder.parent / "drafts").exists()


def test_a_newer_list_fetches_what_is_new(server: FileServer, tmp_path: Path) -> None:
    for n in range(4):
        server.files[f"/{n}.png"] = File(body=picture(n))
    rows = [(server.url(f"/{n}.png"), f"number {n}") for n in range(3)]
    old = get(tmp_path, source_of(write_list(tmp_path, rows)))
    rows = [*rows[1:], (server.url("/3.png"), "number 3"), (server.url("/0.png"), "renamed")]
    asked = len(server.requests)

    new = get(tmp_path, source_of(write_list(tmp_path, rows)))

    assert server.requests[asked:] == ["/3.png"]
    assert content(new)[picture(0)] == "renamed\n"
    assert content(old)[picture(0)] == "number 0\n"
    assert new.folder != old.folder
    (first,) = {file.name for file in new.folder.iterdir() if file.read_bytes() == picture(1)}
    assert (new.folder / first).samefile(old.folder / first)


def test_files_that_were_deleted_come_again(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.png"] = File(body=picture(1))
    source = source_of(write_list(tmp_path, [(server.url("/a.png"), "one")]))
    found = get(tmp_path, source)
    (file,) = found.folder.glob("*.png")
    file.unlink()
    assert content(get(tmp_path, source)) == {picture(1): "one\n"}


def test_the_first_rows_are_taken_on_request(server: FileServer, tmp_path: Path) -> None:
    rows = []
    for n in range(5):
        server.files[f"/{n}.png"] = File(body=picture(n))
        rows.append((server.url(f"/{n}.png"), str(n)))
    found = get(tmp_path, source_of(write_list(tmp_path, rows), max_rows=2))
    assert content(found) == {picture(0): "0\n", picture(1): "1\n"}
    assert found.notes == ("photos: the first 2 of 5 rows are taken, as source_max_rows asks",)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "has no column url"),
        (b"link,caption\nx,y\n", "its columns: link, caption"),
        (b"url,text\nx,y\n", "has no column caption (csv_caption_column)"),
        (b"url,caption\n\xff\xfe,x\n", "is not UTF-8 text"),
        (b"url,caption\n", "has no usable picture"),
        (b"url,caption\nfile:///a.png,x\n", "has no usable picture"),
    ],
)
def test_a_list_that_cannot_be_used_is_told(tmp_path: Path, body: bytes, words: str) -> None:
    (tmp_path / "list.csv").write_bytes(body)
    with pytest.raises(SourceError, match=r"^photos: ") as caught:
        get(tmp_path, source_of(Path("list.csv")))
    assert words in caught.value.message


def test_a_missing_list_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"csv_file names none.csv, which is in none of"):
        get(tmp_path, source_of(Path("none.csv")))
