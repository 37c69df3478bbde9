"""`reverie configure`: SimpleTuner's files for a folder of pictures, each value with its reason."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation

if TYPE_CHECKING:
    from services.cli.configure_proposal import Proposal
    from services.cli.configure_questions import Given

EXAMPLES: Final = """Examples:

reverie configure

reverie configure --pictures photos

reverie configure --pictures photos --goal subject --card 24 --trigger-word "ohwx dog"

reverie configure --pictures ink --goal style --card 80 --adapter lora --output runs/ink --force"""

_INTERRUPTED: Final = 130


def configure(
    ctx: typer.Context,
    *,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the pictures, with its sub-folders."),
    ] = None,
    goal: Annotated[
        Literal["subject", "style", "concept"] | None,
        typer.Option(
            help="What it should learn: one person, animal or thing; how pictures look; what "
            "captions describe."
        ),
    ] = None,
    card: Annotated[
        int | None,
        typer.Option(metavar="GB", help="Memory of the card: 12 or more, such as 24 or 80."),
    ] = None,
    trigger_word: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='Words of a prompt that call it up, such as "ohwx dog". Needed where the '
            "pictures have no captions.",
        ),
    ] = None,
    output_: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Where the files go; else `config`."),
    ] = None,
    adapter: Annotated[
        Literal["lokr", "lora"],
        typer.Option(help="lora where diffusers has to load the result."),
    ] = "lokr",
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Masks by the names of the pictures; what is black is not learned. Else the "
            "sub-folder `masks` of the pictures, if there is one.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are there, without asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Write SimpleTuner's files for a folder of pictures: the first step for those who have none.

    It asks what it has to know and no option says. It looks at the pictures:
    how many there are, their sizes, captions and masks, and what cannot be
    read. It proposes each value with its reason. It writes config.json and
    the files that config.json names, and ends with the report of
    `reverie validate`. What you want otherwise, change in the files.

    The pictures stay as they are. Where some of them would end a run, it gets
    a folder of links to the others.

    Nothing is written before the last question. Exit status: that of
    `reverie validate`; 2 for wrong usage, also where an option is missing and
    there is no terminal to ask on; 130 after Ctrl-C or Ctrl-D.
    """
    from services.cli.configure_questions import Given, missing_options

    given = Given(
        pictures=pictures,
        goal=goal,
        card_gb=card,
        trigger_word=trigger_word,
        output=output_,
        adapter=adapter,
        masks=masks,
    )
    may_ask = sys.stdin.isatty() and not yes
    if not may_ask and (missing := missing_options(given)):
        why = "--yes asks nothing" if yes else "there is no terminal to ask on"
        ctx.fail(f"give {', '.join(missing)}: {why}")
    try:
        folder = _prepare(given, may_ask=may_ask, force=force)
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\n")
        output.print_note("stopped; nothing was written")
        raise typer.Exit(_INTERRUPTED) from None
    if folder is None:
        output.print_note("nothing was written")
        raise typer.Exit(1)
    invocation: Invocation = ctx.obj
    _validate(folder, invocation)


def _prepare(given: "Given", *, may_ask: bool, force: bool) -> Path | None:
    """Ask, look, propose and write; the folder of the files, or None where the person said no."""
    from services.cli.configure_files import replaced_by, write
    from services.cli.configure_proposal import propose
    from services.cli.configure_questions import answers_of, confirm, shown

    answers, pictures = answers_of(given, may_ask=may_ask)
    proposal = propose(answers, pictures)
    _print_proposal(proposal)
    folder = shown(answers.output)
    replaced = replaced_by(proposal, answers.output)
    if replaced and not force:
        if not may_ask:
            raise CommandError(
                f"{folder} has {', '.join(replaced)} with another content: give --force to replace "
                "it, or another --output"
            )
        if not confirm(f"Replace {', '.join(replaced)} in {folder}?", default=False):
            return None
    elif may_ask and not confirm(f"Write {len(proposal.files)} files to {folder}?", default=True):
        return None
    write(proposal, answers.output)
    return Path(folder)


def _print_proposal(proposal: "Proposal") -> None:
    wide = max(len(choice.topic) for choice in proposal.choices)
    sys.stdout.write("\n")
    for choice in proposal.choices:
        output.print_explained(choice.topic, choice.value, choice.reason, wide=wide)
    sys.stdout.write("\n")
    sys.stdout.flush()  # before the question, which goes to stderr


def _validate(folder: Path, invocation: Invocation) -> None:
    """Print the report of `reverie validate`, and what to do next; exit with its status."""
    from services.cli.plan_report import report_on
    from services.cli.validate import print_report, scanning

    config = shlex.quote(str(folder))
    output.print_note(f"reverie validate --config {config}")
    with scanning() as on_progress:
        report = report_on(
            folder, {}, working_dir=Path.cwd(), env=invocation.env, on_progress=on_progress
        )
    print_report(report, every=False)
    if report.errors:
        raise typer.Exit(1)
    sys.stderr.write("\n")
    output.print_note("next, on this machine or with a service:")
    output.print_note(f"  reverie train --config {config}")
    output.print_note(f"  reverie runs submit --watch --config {config}")
