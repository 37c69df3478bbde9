"""A folder whose names cannot be pushed is refused with the names and the way out."""

import os
from pathlib import Path

import pytest

from services.client.errors import BadNamesError, ClientError, EmptyFolderError
from services.client.folder import named_files


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_decomposed_names_are_composed_and_their_files_are_found(tmp_path: Path) -> None:
    decomposed = "cafe\u0301/e\u0301.jpg"
    found = named_files(fill(tmp_path, decomposed, "b.txt"))
    assert found == {"b.txt": tmp_path / "b.txt", "caf\u00e9/\u00e9.jpg": tmp_path / decomposed}
    assert all(path.read_bytes() == b"x" for path in found.values())


def test_every_bad_name_is_told_with_the_way_out(tmp_path: Path) -> None:
    fill(tmp_path, "fine.jpg", "aux.txt", "gpj.\u202eexe.jpg", "dot./a.png", "A.jpg", "a.JPG")
    with pytest.raises(BadNamesError) as caught:
        named_files(tmp_path)
    assert str(caught.value).splitlines() == [
        "rename these files, then push the folder again:",
        "  a.JPG and A.jpg are one file where case does not count",
        "  aux.txt has the part aux.txt, which is a device on Windows",
        "  dot./a.png has a part that ends in a dot or a space, which Windows leaves out",
        "  gpj.\\u202eexe.jpg has an invisible character",
    ]


def test_a_file_that_would_be_a_folder_elsewhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadNamesError) as caught:
        named_files(fill(tmp_path, "a.jpg", "A.JPG/b.jpg", "a.jpg.txt"))
    assert caught.value.faults == (
        "a.jpg is also the folder of A.JPG/b.jpg where case does not count",
    )


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):  # noqa: PTH123  # a name as bytes
        pass
    with pytest.raises(BadNamesError, match=r"caf\\udce9\.jpg is not text in UTF-8"):
        named_files(tmp_path)


def test_a_long_list_of_bad_names_is_cut(tmp_path: Path) -> None:
    fill(tmp_path, *(f"nul.{n}.jpg" for n in range(25)))
    with pytest.raises(BadNamesError, match=r"and 5 more$") as caught:
        named_files(tmp_path)
    assert len(caught.value.faults) == 25


def test_a_folder_without_images_and_captions_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmptyFolderError) as caught:
        named_files(fill(tmp_path, "notes.md", "camera.cr2"))
    assert str(caught.value) == (
        f"{tmp_path} has no image (.jpg .png .webp .avif .heic .jxl .tiff .bmp .gif and others) "
        f"and no caption (.txt). 2 files are not read: 1 camera raw file (camera.cr2), 1 other "
        f"file (notes.md). Save pictures as JPEG or PNG."
    )


def test_a_file_that_cannot_be_pushed_alone_is_told_as_a_file(tmp_path: Path) -> None:
    fill(tmp_path, "photo.png")
    with pytest.raises(ClientError, match=r"photo\.png is a file; of files only an adapter"):
        named_files(tmp_path / "photo.png")


def test_of_a_folder_with_nothing_but_an_adapter_its_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "README.md", "old/a.safetensors")
    with pytest.raises(EmptyFolderError) as caught:
        named_files(tmp_path)
    assert str(caught.value).endswith(f"name the file: {tmp_path}/old/a.safetensors.")
