"""Every `reverie` command in the documents exists, with every option that it is shown with."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from services.cli.program import app

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "deploy", "helm", "examples")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(f for each in FOLDERS for f in (ROOT / each).rglob("*.md"))]
)
PROGRAM: Any = typer.main.get_command(app)

_INLINE = re.compile(r"`(?:\.venv/bin/)?reverie\s+([^`]+)`")
_BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
_LINE = re.compile(r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?reverie ([^#\n]*)", re.MULTILINE)


def commands_of(text: str) -> Iterator[str]:
    """What follows `reverie`, in code within lines and in blocks."""
    yield from _INLINE.findall(text)
    for block in _BLOCK.findall(text):
        yield from _LINE.findall(block.replace("\\\n", " "))


def unknown_of(command: str) -> str | None:
    """The first word of the command that the program does not know; None where it knows all."""
    words = command.split()
    known = PROGRAM
    while words and (named := getattr(known, "commands", {}).get(words[0].rstrip(".,:;"))):
        known, words = named, words[1:]
    if hasattr(known, "commands") and words and re.match(r"[a-z]", words[0]):
        return words[0]
    options = {name for each in known.params for name in (*each.opts, *each.secondary_opts)}
    shown = [word.partition("=")[0].rstrip(".,:;") for word in words if word.startswith("--")]
    return next((each for each in shown if each not in options | {"--help"}), None)


def test_what_does_not_exist_is_found() -> None:
    text = "`reverie runs lists`\n```sh\n$ reverie runs submit --config x \\\n  --colour\n```\n"
    assert [unknown_of(each) for each in commands_of(text)] == ["lists", "--colour"]


def test_commands_in_documents_exist() -> None:
    shown = [
        (str(document.relative_to(ROOT)), command)
        for document in DOCUMENTS
        for command in commands_of(document.read_text())
    ]
    assert len(shown) > 100
    assert [each for each in shown if unknown_of(each[1])] == []
