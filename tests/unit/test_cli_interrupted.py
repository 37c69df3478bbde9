"""Ctrl-C while a command still imports: it ends without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRESSED = """
import os, signal, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

wanted = sys.argv.pop(1)
sys.meta_path.insert(0, CtrlC())
from services.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("typer", "validate --config examples/demo"),
        ("services.cli.plan_report", "validate --config examples/demo"),
        ("trainer_core.local.export", "export ."),
    ],
)
def test_ctrl_c_during_an_import_ends_quietly(module: str, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PRESSED, module, *command.split()],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, "", "")
