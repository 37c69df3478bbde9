"""The questions of `reverie configure`: each is asked where no option has answered it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import typer

from services.cli import output
from services.cli.configure_answers import (
    GOALS,
    Adapter,
    Answers,
    Goal,
    read_card,
    read_folder,
    read_goal,
    read_output,
    read_word,
)
from services.cli.configure_captions import strategy_of
from services.cli.configure_pictures import Pictures, look_at, summary_of
from services.cli.connection import CommandError
from services.cli.validate import scanning

_DEFAULT_OUTPUT: Final = Path("config")
_SHORT_ANSWER: Final = 12
_PATH: Final = 60
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The options as they were given; None where one was not."""

    pictures: Path | None = None
    goal: Goal | None = None
    card_gb: int | None = None
    trigger_word: str | None = None
    output: Path | None = None
    adapter: Adapter = "lokr"
    masks: Path | None = None


def missing_options(given: Given) -> list[str]:
    """The options without which something has to be asked, whatever the pictures are."""
    needed = {"--pictures": given.pictures, "--goal": given.goal, "--card": given.card_gb}
    return [name for name, value in needed.items() if value is None]


def answers_of(given: Given, *, may_ask: bool) -> tuple[Answers, Pictures]:
    """What was given, answers to the rest, and what is in the folder of pictures.

    Args:
        given: the options; where nobody can be asked, without ``missing_options``.
        may_ask: whether a person is there to answer.

    Raises:
        typer.BadParameter: an option is wrong, or the trigger word is missing.
        CommandError: no picture can be used.
        KeyboardInterrupt, EOFError: the person pressed Ctrl-C or Ctrl-D.
    """
    # Before the pictures are read, which may take a while:
    card_gb = None if given.card_gb is None else _checked(read_card, str(given.card_gb), "--card")
    masks = None if given.masks is None else _checked(read_folder, str(given.masks), "--masks")
    folder = (
        ask("Folder of the pictures", read_folder, room=_PATH)
        if given.pictures is None
        else _checked(read_folder, str(given.pictures), "--pictures")
    )
    if masks is not None and masks.samefile(folder):
        raise typer.BadParameter("it is the folder of the pictures", param_hint="--masks")
    output_ = _given_output(given.output, folder, may_ask=may_ask)
    pictures = _look(folder, masks)
    answers = Answers(
        pictures=folder,
        goal=_goal(given.goal),
        card_gb=card_gb or ask("Memory of the card in GB", read_card, default="24"),
        trigger_word=_word(given.trigger_word, pictures, may_ask=may_ask),
        output=output_
        or ask(
            "Folder for the files",
            lambda text: read_output(text, folder),
            default=str(_DEFAULT_OUTPUT),
            room=_PATH,
        ),
        adapter=given.adapter,
    )
    return answers, pictures


def ask(
    question: str, read: Callable[[str], T], *, default: str = "", room: int = _SHORT_ANSWER
) -> T:
    """Ask until ``read`` takes the answer; the message of its ValueError says why it does not.

    ``room``: columns that the answer may need. Where the question leaves fewer, the answer has a
    line of its own.
    """
    _, err = output.consoles()
    text = f"{question} [{default}]: " if default else f"{question}: "
    if len(text) + room > err.width:
        output.print_note(text.rstrip())
        text = "> "
    while True:
        answer = err.input(output.text_of(text)).strip() or default
        try:
            return read(answer)
        except ValueError as error:
            output.print_note(f"  {error}")


def confirm(question: str, *, default: bool) -> bool:
    """Ask for yes or no."""

    def read(answer: str) -> bool:
        if answer.lower() not in ("y", "yes", "n", "no"):
            raise ValueError("answer y or n")
        return answer.lower().startswith("y")

    return ask(f"{question} (y/n)", read, default="y" if default else "n")


def shown(path: Path) -> str:
    """A path as a person would write it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _look(folder: Path, masks: Path | None) -> Pictures:
    """What is in the folder, which is told; raises CommandError where no picture can be used."""
    with scanning() as on_progress:
        pictures = look_at(folder, masks, lambda done, total: on_progress(folder.name, done, total))
    first, *others = summary_of(pictures)
    output.print_note(f"{shown(folder)}: {first}")
    for line in others:
        output.print_note(f"  {line}")
    if not pictures.usable:
        raise CommandError(f"{shown(folder)} has no picture that can be used")
    return pictures


def _goal(given: Goal | None) -> Goal:
    if given is not None:
        return given
    output.print_note("What should it learn?")
    for goal, meaning in GOALS.items():
        output.print_note(f"  {goal:<8} {meaning}")
    return ask("Goal", read_goal, default="subject")


def _word(given: str | None, pictures: Pictures, *, may_ask: bool) -> str | None:
    is_needed = strategy_of(pictures.usable) == "instanceprompt"

    def read(text: str) -> str | None:
        word = read_word(text)
        if word is None and is_needed:
            raise ValueError("the pictures have no captions, so that it is needed")
        return word

    if given is not None or not may_ask:
        return _checked(read, given or "", "--trigger-word")
    ending = "such as ohwx dog" if is_needed else "Enter for none"
    return ask(f"Words of a prompt that call it up, {ending}", read)


def _given_output(given: Path | None, pictures: Path, *, may_ask: bool) -> Path | None:
    """The folder that is to be written; None where a person is asked for it."""
    if given is None and may_ask:
        return None
    text = str(given or _DEFAULT_OUTPUT)
    return _checked(lambda text: read_output(text, pictures), text, "--output")


def _checked(read: Callable[[str], T], text: str, option: str) -> T:
    """What an option says; raises typer.BadParameter where a question would be asked again."""
    try:
        return read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
