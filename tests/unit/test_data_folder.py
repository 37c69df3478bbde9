"""The files of a data folder: what counts as an image, a caption, another file, or none."""

import os
from pathlib import Path

import pytest

from tests.unit.config_examples import import_small
from trainer_core.data.captions import MAX_CAPTION_CHARACTERS, read_captions
from trainer_core.data.folder import FolderFiles, list_files, stem_of
from trainer_core.errors import BadCaptionError


def test_files_are_grouped_by_suffix_and_hidden_ones_ignored(tmp_path: Path) -> None:
    for name in (
        *("b.JPG", "a.txt", "b/c.webp", "b-d.png", "notes.md", "upper.TXT"),
        *(".hidden.png", ".hidden/e.png", "b/.f.txt"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.JPG")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.png")

    assert list_files(tmp_path) == FolderFiles(
        images=("b/c.webp", "b-d.png", "b.JPG", "link.png"),
        captions=("a.txt", "upper.TXT"),
        others=("notes.md",),
    )


def test_a_missing_folder_has_no_files(tmp_path: Path) -> None:
    nothing = FolderFiles(images=(), captions=(), others=())
    assert list_files(tmp_path / "nowhere") == nothing


def test_an_image_and_its_mask_have_the_same_stem() -> None:
    assert stem_of("in/x.y.png") == stem_of("in/x.y.jpg") == "in/x.y"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\xff\xfe", "cats: a.txt: not UTF-8 text"),
        (b"x" * (4 * MAX_CAPTION_CHARACTERS + 4), "cats: a.txt: more than 20000 characters"),
        (b"x" * (MAX_CAPTION_CHARACTERS + 1), "cats: a.txt: 20001 characters"),
    ],
)
def test_a_bad_caption_file_is_named(tmp_path: Path, body: bytes, problem: str) -> None:
    (tmp_path / "a.txt").write_bytes(body)
    plan = import_small(backends=[{"id": "cats", "caption_strategy": "textfile"}]).plan
    with pytest.raises(BadCaptionError, match=problem):
        read_captions(plan.identity.backends[0], tmp_path, "a.png", name="cats: a.txt")
