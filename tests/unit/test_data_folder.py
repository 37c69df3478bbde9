"""The files of a data folder: what counts as an image, a caption, another file, or none."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.unit.config_examples import import_small
from trainer_core.data.captions import MAX_CAPTION_CHARACTERS, read_captions
from trainer_core.data.folder import FolderFiles, caption_files, list_files, notes_on, stem_of
from trainer_core.data.reading import listed
from trainer_core.errors import BadCaptionError, BadImageError
from trainer_core.local.folder import locked


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

    files = list_files(tmp_path)

    assert files == FolderFiles(
        images=("b/c.webp", "b-d.png", "b.JPG", "link.png"),
        captions=("a.txt", "upper.TXT"),
        others=("notes.md",),
        unreadable=("broken.png",),
    )
    assert "Folders and links that cannot be read: broken.png." in notes_on(files)


def test_a_link_to_a_folder_is_followed_once(tmp_path: Path) -> None:
    for name in ("data/own/a.png", "elsewhere/b.png", "elsewhere/in/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, target in (("1", "data/own"), ("2", "elsewhere"), ("3", "elsewhere"), ("4", "data")):
        (tmp_path / "data" / link).symlink_to(tmp_path / target, target_is_directory=True)

    assert list_files(tmp_path / "data").images == ("2/b.png", "2/in/c.png", "own/a.png")


def test_a_missing_folder_has_no_files(tmp_path: Path) -> None:
    nothing = FolderFiles(images=(), captions=(), others=())
    assert list_files(tmp_path / "nowhere") == nothing


def test_an_image_and_its_mask_have_the_same_stem() -> None:
    assert stem_of("in/x.y.png") == stem_of("in/x.y.jpg") == "in/x.y"


CATS = import_small(backends=[{"id": "cats", "caption_strategy": "textfile"}]).plan


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\xe9", "in/a.txt: not UTF-8 text"),
        (b"x" * (4 * MAX_CAPTION_CHARACTERS + 4), "in/a.txt: more than 20000 characters"),
        (b"x" * (MAX_CAPTION_CHARACTERS + 1), "in/a.txt: 20001 characters"),
    ],
)
def test_a_bad_caption_file_is_named(tmp_path: Path, body: bytes, problem: str) -> None:
    (tmp_path / "a.txt").write_bytes(body)
    with pytest.raises(BadCaptionError, match=f"^{problem}"):
        read_captions(CATS.identity.backends[0], "a.png", tmp_path / "a.txt", name="in/a.txt")


def test_of_two_caption_files_that_differ_in_case_the_usual_one_counts() -> None:
    assert caption_files(("a.TXT", "a.txt", "in/b.Txt")) == {"a": "a.txt", "in/b": "in/b.Txt"}


def test_a_name_that_is_not_utf_8_is_a_broken_file(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):  # noqa: PTH123  # a name as bytes
        pass
    folder = listed(CATS.identity.backends[0], tmp_path, ())

    error = folder.read(folder.files.images[0], lambda path, name: pytest.fail("it was read"))

    assert isinstance(error, BadImageError)
    assert error.message == r"caf\udce9.jpg: its name is not text in UTF-8; rename it"


def test_the_output_of_any_run_is_left_out(tmp_path: Path) -> None:
    names = ("a.jpg", "run/result/0.png", "run/b.jpg", "no run/.lock", "no run/c.png",
             "deep/in/run/checkpoints/d.png", "mine/e.png")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for run in ("run", "deep/in/run"):
        with locked(tmp_path / run):
            pass

    files = list_files(tmp_path, [tmp_path / "mine"])

    assert files.images == ("a.jpg", "no run/c.png")
    assert files.own_output == ("deep/in/run", "mine", "run")
    assert notes_on(files) == ["The output of runs is left out: deep/in/run, mine, run."]


def test_data_in_the_output_folder_itself_is_data(tmp_path: Path) -> None:
    for name in ("a.jpg", "more/b.jpg", "result/0.png", "set-aside-1/c.png", "cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert list_files(tmp_path).images == (
        "a.jpg", "cache/d.png", "more/b.jpg", "result/0.png", "set-aside-1/c.png",
    )  # fmt: skip
    for own in ((tmp_path,), (tmp_path, tmp_path / "cache")):
        assert list_files(tmp_path, own).images == ("a.jpg", "more/b.jpg")
    with locked(tmp_path):
        assert list_files(tmp_path).images == ("a.jpg", "more/b.jpg")
    above = list_files(tmp_path / "more", [tmp_path])
    assert above.images == ("b.jpg",)


def test_a_folder_that_cannot_be_listed_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "a.jpg").touch()
        (folder / "secret").mkdir(mode=0)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if os.geteuid() == 0:  # root reads every folder
                os.setuid(65534)
            os.write(writer, repr(notes_on(list_files(folder))).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            assert answer.read() == "['Folders and links that cannot be read: secret.']"
        (folder / "secret").chmod(0o700)
