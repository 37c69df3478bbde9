"""Tar files are imported in portions, as a cache builder asks for them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.file_server import OWN, File, FileServer
from tests.support.pictures import picture
from tests.support.tars import tar_of
from trainer_core.commands.fetch import Fetcher
from trainer_core.process.import_requests import FetchRequest
from trainer_core.sources.errors import SourceError


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(OWN) as running:
        for n in range(3):
            files = {f"{m}.png": picture(n * 10 + m) for m in range(3)} | {"1.txt": b"a\nb"}
            running.files[f"/{n}.tar"] = File(body=tar_of(files), headers={"ETag": f'"{n}"'})
        yield running


def request_of(source: object, folder: Path, position: Any = None) -> FetchRequest:
    folder.mkdir()
    return FetchRequest(
        source={"type": "webshart", "source": str(source)},
        list_file=None,
        position=position,
        cache=str(folder.parent / "cache"),
        folder=str(folder),
        allowed=(f"{OWN}/32",),
        max_rows=2,
        max_bytes=1 << 30,
        max_s=60,
    )


def fetched(source: str, tmp_path: Path, one: Fetcher | None) -> tuple[dict[str, str], list[str]]:
    """Path → SHA-256 of the files of all portions, and what was left out.

    ``one``: fetches all of them; None: each is fetched by another one.
    """
    files: list[tuple[str, str]] = []
    left_out: list[str] = []
    position: Any = None
    for number in range(50):
        reply = (one or Fetcher()).fetch(request_of(source, tmp_path / f"{number}", position))
        files += [(each.path, each.sha256) for each in reply.files]
        left_out += [each.message for each in reply.left_out]
        position = reply.position
        if reply.is_last:
            break
    assert len(dict(files)) == len(files), "no row comes twice"
    return dict(files), left_out


def test_all_rows_come_once_whatever_process_fetches_them(
    server: FileServer, tmp_path: Path
) -> None:
    source = server.url("/{0..3}.tar")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    files, left_out = fetched(source, tmp_path / "a", None)

    pictures = {digest for path, digest in files.items() if path.endswith(".png")}
    assert pictures == {
        hashlib.sha256(picture(n * 10 + m)).hexdigest() for n in range(3) for m in range(3)
    }
    assert sum(path.endswith(".txt") for path in files) == 3
    (why,) = left_out
    assert "/3.tar: the server answers 404" in why
    assert fetched(source, tmp_path / "b", Fetcher()) == (files, left_out)


def test_another_tar_file_in_the_meantime_ends_the_import(
    server: FileServer, tmp_path: Path
) -> None:
    source = server.url("/{0..2}.tar")
    reply = Fetcher().fetch(request_of(source, tmp_path / "0"))
    server.files["/2.tar"] = File(body=tar_of({"x.png": picture(1)}), headers={"ETag": '"new"'})
    again = request_of(source, tmp_path / "1", reply.position)
    with pytest.raises(SourceError, match="have changed since the import began: import it again"):
        Fetcher().fetch(again)


def test_no_file_of_the_builder_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"1.png": picture(1)}))
    request = request_of(tmp_path, tmp_path / "out")
    with pytest.raises(SourceError, match="has to be an address"):
        Fetcher().fetch(request)
