"""`reverie configure`, by questions at a terminal of 80 columns and by options."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from tests.support.terminal import COLUMNS, CTRL_C, CTRL_D, Terminal, at_terminal

ROOT = Path(__file__).parents[2]
RUNS = """
import json, os, sys
from services.cli.main import main
for folder, options in json.loads(sys.argv[1]):
    os.chdir(folder)
    sys.argv[1:] = ["configure", *options]
    try:
        main()
        status = 0
    except SystemExit as error:
        status = error.code
    print(f"[status {status}]", flush=True)
"""
QUESTIONS = (
    "Folder of the pictures:\r\n>",
    r"Goal \[subject\]:",
    r"Memory of the card in GB \[24\]:",
    "call it up.*:",
    r"Folder for the files \[config\]:\r\n>",
)
WRITE = r"Write \d files to .*\(y/n\) \[y\]:"
BARE = ("--pictures=bare", "--goal=style", "--card=24")
HEAVY = {"torch", "diffusers", "transformers", "lycoris", "peft"}


def picture(file: Path, size: tuple[int, int], caption: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "coral").save(file)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")


def square(folder: Path) -> None:
    for number in range(3):
        picture(folder / f"IMG_{number}.jpg", (1024, 1024), f"ohwx dog on grass, view {number}")


def mixed(folder: Path) -> None:
    for number, size in enumerate([(900, 600), (600, 900), (800, 800), (1200, 500)]):
        picture(folder / f"DSC{number}.png", size, "an ink drawing of a harbour")


def few_and_tiny(folder: Path) -> None:
    for number in range(2):
        picture(folder / f"{number}.webp", (90, 120))


def no_captions(folder: Path) -> None:
    for number in range(4):
        picture(folder / f"a red car in the snow {number}.jpg", (600, 600))


def odd(folder: Path) -> None:
    square(folder)
    picture(folder / "naïve 猫.jpg", (700, 800), "ohwx dog and a 猫")
    for name, body in {"a.jpg": b"\xff\xd8\xff", "film.mp4": b"-", "b.heic": b"-"}.items():
        (folder / name).write_bytes(body)
    picture(folder / "latin.jpg", (700, 700))
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    for number in range(3):
        picture(folder / f"masks/IMG_{number}.png", (64, 64))


FOLDERS: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "square": (square, {"goal": "subject", "card": "24", "trigger-word": "ohwx dog"}),
    "mixed": (mixed, {"goal": "style", "card": "48", "trigger-word": ""}),
    "tiny": (few_and_tiny, {"goal": "concept", "card": "16", "trigger-word": "zwx glow"}),
    "bare": (no_captions, {"goal": "style", "card": "80", "trigger-word": ""}),
    "odd": (odd, {"goal": "subject", "card": "48", "trigger-word": "ohwx dog"}),
}


def make_project(folder: Path) -> Path:
    """A folder with the pictures of all kinds."""
    for name, (make, _) in FOLDERS.items():
        make(folder / name)
    return folder


def files_in(folder: Path) -> dict[str, bytes | str]:
    """Path → content, or what a link says, of everything in a folder."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@contextmanager
def runs_at_terminal(*runs: tuple[Path, list[str]], home: Path, **env: str) -> Iterator[Terminal]:
    """One process that runs the command once for each folder and its options."""
    named = json.dumps([(str(folder), options) for folder, options in runs])
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
        "PYTHONPATH": str(ROOT),
        "REVERIE_HOME": str(home),
        "TERM": "xterm",
        **env,
    }
    with at_terminal([sys.executable, "-c", RUNS, named], cwd=ROOT, env=environment) as terminal:
        yield terminal


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command in this process, where there is no terminal; its exit status."""

    def run(folder: Path, *options: str) -> int:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal, whoever runs the tests
        invocation = Invocation(env={"REVERIE_HOME": str(tmp_path / "home")})
        return int(app(["configure", *options], obj=invocation, standalone_mode=False) or 0)

    return run


def test_questions_and_options_write_the_same_files_which_a_run_would_take(
    tmp_path: Path, configure: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path / "project")
    before = files_in(project)

    with runs_at_terminal(
        *((project, []) for _ in FOLDERS), home=tmp_path / "home", NO_COLOR="1"
    ) as terminal:
        for name, (_, answers) in FOLDERS.items():
            for question, answer in zip(
                QUESTIONS, [name, *answers.values(), f"runs/{name}"], strict=True
            ):
                terminal.answer(f"{question} ", answer)
            terminal.answer(f"{WRITE} ", "y")
            report = terminal.wait_for(r"\[status \d+\]")
            assert "[status 0]" in report, report
            assert "will act differently" not in report
            assert f"reverie train --config runs/{name}" in report

    assert [row for row in terminal.rows if len(row) > COLUMNS] == []
    assert "\x1b" not in terminal.printed
    asked = files_in(project / "runs")
    (project / "runs").rename(tmp_path / "asked")
    for name, (_, answers) in FOLDERS.items():
        options = [f"--{option}={answer}" for option, answer in answers.items() if answer]
        where = [f"--pictures={name}", f"--output=runs/{name}"]
        assert configure(project, *where, *options) == 0, capfd.readouterr()
    assert files_in(project / "runs") == asked
    assert before.items() <= files_in(project).items()
    assert {name for name in asked if name.startswith("odd/") and "IMG_0" in name} == {
        "odd/pictures/IMG_0.jpg",
        "odd/pictures/IMG_0.txt",
    }
    capfd.readouterr()
    assert app(["validate", "--config", "runs/odd", "--json"], obj=Invocation(env={}),
               standalone_mode=False) in (None, 0)  # fmt: skip
    report = json.loads(capfd.readouterr().out)
    assert sum(bucket["images"] for bucket in report["buckets"]) == 4


def test_a_person_may_stop_at_any_question_and_nothing_is_written(tmp_path: Path) -> None:
    square(tmp_path / "photos")
    before = files_in(tmp_path)
    answers = ("photos", "subject", "24", "", "config")
    stops = [*enumerate((*QUESTIONS, WRITE)), (3, QUESTIONS[3])]
    keys = [CTRL_C] * len(QUESTIONS) + [CTRL_D] * 2

    with runs_at_terminal(*((tmp_path, []) for _ in stops), home=tmp_path) as terminal:
        for (number, last), key in zip(stops, keys, strict=True):
            for question, answer in zip(QUESTIONS[:number], answers, strict=False):
                terminal.answer(f"{question} ", answer)
            terminal.wait_for(f"{last} ")
            terminal.press_once_it_reads(key)
            assert "nothing was written" in terminal.wait_for(r"\[status 130\]")
        terminal.read_to_end()

    assert "Traceback" not in terminal.printed
    assert files_in(tmp_path) == before


def test_a_wrong_answer_is_asked_again_and_says_why(tmp_path: Path) -> None:
    few_and_tiny(tmp_path / "tiny")
    wrong = (
        ({"nowhere": "there is no folder nowhere"}, "tiny"),
        ({"painting": "answer subject, style, concept"}, "su"),
        ({"many": "a whole number of GB", "8": "12 GB or more"}, "24 gb"),
        ({"": "the pictures have no captions"}, "zwx"),
        ({"tiny/config": "among the pictures"}, ""),
        ({"perhaps": "answer y or n"}, "n"),
    )
    with runs_at_terminal((tmp_path, []), home=tmp_path) as terminal:
        for question, (answers, right) in zip((*QUESTIONS, WRITE), wrong, strict=True):
            terminal.wait_for(f"{question} ")
            for answer, why in answers.items():
                terminal.type(f"{answer}\n")
                terminal.wait_for(why)
            terminal.type(f"{right}\n")
        terminal.wait_for(r"\[status 1\]")
    assert not (tmp_path / "config").exists()
    assert "\x1b[" in terminal.printed


def test_files_that_are_there_are_not_replaced_without_asking(
    tmp_path: Path, configure: Callable[..., int]
) -> None:
    odd(tmp_path / "photos")
    options = ["--pictures=photos", "--goal=subject", "--card=48", "--trigger-word=ohwx dog"]
    assert configure(tmp_path, *options) == 0
    written = files_in(tmp_path / "config")
    assert configure(tmp_path, *options) == 0  # the same again replaces nothing
    other = [*options, "--goal=style"]

    with pytest.raises(CommandError, match=r"config\.json .*--force"):
        configure(tmp_path, *other)
    with runs_at_terminal((tmp_path, other), home=tmp_path) as terminal:
        terminal.answer(f"{QUESTIONS[-1]} ", "config")
        terminal.answer(r"Replace .*config\.json.*: ", "")
        terminal.wait_for(r"\[status 1\]")
    assert files_in(tmp_path / "config") == written

    (tmp_path / "mine/config.json").mkdir(parents=True)
    (tmp_path / "mine/multidatabackend.json").write_bytes(b"mine")
    with pytest.raises(CommandError, match=r"mine/config\.json is a folder"):
        configure(tmp_path, *options, "--output=mine", "--force")
    assert files_in(tmp_path / "mine") == {"multidatabackend.json": b"mine"}

    assert configure(tmp_path, *other, "--force") == 0
    assert files_in(tmp_path / "config") != written
    (tmp_path / "config/pictures/mine.jpg").write_bytes(b"mine")
    with pytest.raises(CommandError, match=r"mine\.jpg is no link"):
        configure(tmp_path, *other, "--force")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], ["--pictures", "--goal", "--card"]),
        (["--pictures=bare", "--yes"], ["--goal", "--card"]),
        (["--pictures=tiny", "--goal=style", "--card=24"], ["--trigger-word"]),
        (["--pictures=none", "--goal=style", "--card=24"], ["--pictures"]),
        (["--pictures=bare", "--goal=style", "--card=8"], ["--card"]),
        ([*BARE, "--output=bare/x"], ["--output"]),
        ([*BARE, "--output=taken"], ["--output", "taken is no folder"]),
        ([*BARE, "--output=taken/x/y"], ["--output", "taken is no folder"]),
        ([*BARE, "--output={id}/x"], ["--output", "must not contain {id}"]),
        ([*BARE, "--trigger-word={env:HOME} dog"], ["--trigger-word", "{env:HOME}"]),
        ([*BARE, "--masks=../project/bare"], ["--masks", "it is the folder of the pictures"]),
        (["--pictures={output_dir}", *BARE[1:]], ["--pictures", "{output_dir}"]),
    ],
)
def test_without_a_terminal_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], named: list[str]
) -> None:
    project = tmp_path / "project"
    few_and_tiny(project / "tiny")
    no_captions(project / "bare")
    no_captions(project / "{output_dir}")
    (project / "taken").write_text("mine")
    before = files_in(project)

    monkeypatch.chdir(project)
    wide = {"COLUMNS": "200"}
    result = CliRunner().invoke(app, ["configure", *options], obj=Invocation(env={}), env=wide)

    assert result.exit_code == 2
    assert all(name in result.output for name in named), result.output
    assert files_in(project) == before


def test_a_folder_without_a_usable_picture_is_an_error(
    tmp_path: Path, configure: Callable[..., int]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"\xff\xd8")

    with pytest.raises(CommandError, match="photos has no picture that can be used"):
        configure(tmp_path, "--pictures=photos", "--goal=style", "--card=24")
