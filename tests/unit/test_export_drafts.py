"""A file or folder that is written by two at once is that of one of them, and no draft stays."""

import errno
from pathlib import Path

import pytest

from trainer_core.disk import DiskError
from trainer_core.errors import OutputError
from trainer_core.export.drafts import (
    check_new_file,
    check_new_folder,
    file_at_once,
    folder_at_once,
)


def write(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a").write_text(text)


def test_of_two_folders_at_once_the_first_that_is_whole_stays(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"

    def write_both() -> None:
        with folder_at_once(output) as slow:
            write(slow, "slow")
            with folder_at_once(output) as fast:
                write(fast, "fast")
            assert (slow / "a").read_text() == "slow"

    with pytest.raises(OutputError, match="out exists and is not empty"):
        write_both()

    assert (output / "a").read_text() == "fast"
    assert list(output.parent.iterdir()) == [output]


def test_of_two_files_at_once_the_last_stays(tmp_path: Path) -> None:
    with file_at_once(tmp_path / "out", "a") as slow:
        write(slow, "slow")
        with file_at_once(tmp_path / "out", "a") as fast:
            write(fast, "fast")

    assert (tmp_path / "out").read_text() == "slow"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_an_error_in_a_draft_names_the_folder_that_it_becomes(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, folder_at_once(tmp_path / "out") as draft:
        raise OSError(errno.EROFS, "Read-only", str(draft / "samples" / "0.png"))

    assert caught.value.message.startswith(f"{tmp_path / 'out'} is on a disk that is mounted")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, leads_to in (("to_folder", "empty"), ("to_nothing", "nothing")):
        (tmp_path / name).symlink_to(leads_to)
        with pytest.raises(OutputError, match=f"{name} is a symbolic link: name a new folder"):
            check_new_folder(tmp_path / name)
    with pytest.raises(OutputError, match="to_nothing exists: give another --output"):
        check_new_file(tmp_path / "to_nothing", overwrite=False)
    for place in (tmp_path / "file" / "in" / "it", tmp_path / "to_nothing" / "it"):
        with pytest.raises(OutputError, match=r"(file|to_nothing) is no folder: give another"):
            check_new_folder(place)
    with pytest.raises(OutputError, match="/dev/null is no folder: give another --output"):
        check_new_file(Path("/dev/null/x.safetensors"), overwrite=True)

    check_new_folder(tmp_path / "empty")
    check_new_file(tmp_path / "to_nothing", overwrite=True)
    check_new_file(tmp_path / "new" / "in" / "it", overwrite=False)
