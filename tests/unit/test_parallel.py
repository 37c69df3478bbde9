"""Tests in several forked processes: what pytest says of them, and a process that dies."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
import os
import pytest

@pytest.fixture(scope="session", autouse=True)
def noted():
    yield
    with open("ended.txt", "a") as file:
        print(os.getpid(), file=file)
"""
PASSING = """
import os
import pytest

@pytest.mark.parametrize("number", range(3))
def test_passes(number, tmp_path, capsys):
    print("printed")
    assert capsys.readouterr().out == "printed\\n"
    assert not list(tmp_path.iterdir())
    with open("ran.txt", "a") as file:
        print(__name__, os.getpid(), file=file)
"""
FAILING = """
import os
import signal
import warnings

def test_warns():
    warnings.warn("careful")

def test_fails():
    print("said before")
    assert 1 == 2

def test_dies():
    os.kill(os.getpid(), signal.SIGKILL)

def test_after_it():
    pass
"""


def run_pytest(folder: Path, *options: str) -> tuple[int, str]:
    """Exit status and output of a pytest of its own, with two processes, in a folder."""
    plain = ["-c", "/dev/null", "--rootdir", ".", "-q", "-ra", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *plain, "--basetemp", "temporary"),
            *("-p", "tests.support.parallel", "--processes", "2", *options, "."),
        ],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_file_is_run_by_one_process_and_its_fixtures_end(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("a", "b", "c"):
        (tmp_path / f"test_{name}.py").write_text(PASSING)

    status, said = run_pytest(tmp_path)

    assert (status, said.splitlines()[-1].partition(" in ")[0]) == (0, "9 passed"), said
    ran = {tuple(line.split()) for line in (tmp_path / "ran.txt").read_text().splitlines()}
    assert [file for file, _ in sorted(ran)] == ["test_a", "test_b", "test_c"]
    ended = (tmp_path / "ended.txt").read_text().split()
    assert sorted(ended) == sorted({process for _, process in ran})


def test_failures_warnings_and_a_process_that_dies_are_told(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(FAILING)
    (tmp_path / "test_b.py").write_text(PASSING)

    status, said = run_pytest(tmp_path, "--junitxml", "junit.xml")

    assert status == 1
    counts = said.splitlines()[-1].partition(" in ")[0]
    assert counts == "2 failed, 5 passed, 1 warning", said
    assert "said before" in said
    assert "the process that ran test_a.py::test_dies ended with -9" in said
    assert "UserWarning: careful" in said
    (suite,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("7", "2")


def test_the_first_failure_can_be_the_last(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_fails():\n    assert 0\n")
    slow = "import pytest, time\n\n@pytest.mark.parametrize('number', range(600))\n"
    slow += "def test_sleeps(number):\n    time.sleep(0.1)\n"
    (tmp_path / "test_b.py").write_text(slow)

    status, said = run_pytest(tmp_path, "-x")

    assert status == 1
    assert "stopping after 1 failures" in said
    assert "\n1 failed" in said
