"""A fetching process that was taken over cannot have another file of the machine stored."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cache_builder.fetched_files import MAX_LIST_BYTES, opened, read_list
from services.processes.request_child import ChildLostError
from trainer_core.process.import_requests import FetchedFile

SECRET = b"AWS_SECRET_ACCESS_KEY=secret"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a request; the secret is beside it."""
    (tmp_path / "secret").write_bytes(SECRET)
    made = tmp_path / "files"
    made.mkdir()
    return made


def named(name: str, content: bytes = SECRET) -> FetchedFile:
    return FetchedFile(
        path="1.png",
        local_name=name,
        media="image",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        width_px=1,
        height_px=1,
        lit=None,
    )


def link(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent / "secret")
    return "link"


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def subfolder(folder: Path) -> str:
    (folder / "sub").mkdir()
    return "sub"


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: "../secret",
        lambda folder: str(folder.parent / "secret"),
        lambda folder: "..",
        lambda folder: "",
        lambda folder: "a\0b",
        lambda folder: "missing",
        link,
        pipe,
        subfolder,
    ],
)
def test_only_a_file_in_the_folder_of_the_request_is_opened(
    folder: Path, make: Callable[[Path], str]
) -> None:
    name = make(folder)
    with pytest.raises(ChildLostError), opened(folder, named(name)):
        pass
    with pytest.raises(ChildLostError):
        read_list(folder, name)


def test_the_folder_may_not_be_a_link(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to(folder.parent)
    with pytest.raises(ChildLostError), opened(folder, named("secret")):
        pass


def test_the_file_is_the_one_of_the_reply(folder: Path) -> None:
    (folder / "0.part").write_bytes(b"another")
    for content in (b"longer than the file", b"short", b"anotheR"):
        with pytest.raises(ChildLostError), opened(folder, named("0.part", content)):
            pass


def test_what_was_opened_is_read_whatever_becomes_of_its_name(folder: Path) -> None:
    (folder / "0.part").write_bytes(b"a picture")
    with opened(folder, named("0.part", b"a picture")) as path:
        (folder / "0.part").unlink()
        (folder / "0.part").symlink_to(folder.parent / "secret")
        assert path.read_bytes() == b"a picture"


def test_a_list_has_a_limit(folder: Path) -> None:
    (folder / "list.csv").write_bytes(b"x" * MAX_LIST_BYTES)
    assert len(read_list(folder, "list.csv")) == MAX_LIST_BYTES
    with (folder / "list.csv").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ChildLostError):
        read_list(folder, "list.csv")
