"""`reverie train`: one run on this machine without the service, in this process or in several."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.config_options import Config, Setting, settings_of
from services.cli.source_fetching import AllowNetwork, networks_in

if TYPE_CHECKING:
    from trainer_core.local.run import LocalRun

_EXIT_FAILED: Final = 1
_EXIT_STOPPED: Final = 75

EPILOG: Final = """Examples:

reverie train --config examples/demo

reverie train --config my/config --set max_train_steps=500 --set report_to=wandb

reverie train --config my/config --set resume_from_checkpoint= --output runs/second

reverie train --config my/config --set num_processes=4 --ranks 2

From another terminal (the file is in the output folder unless --control names one):

echo pause > output/models-hidream/control

echo run > output/models-hidream/control

echo stop > output/models-hidream/control"""


_Output = Annotated[
    Path | None,
    typer.Option(
        "--output", metavar="DIR", help="Checkpoints and result; else the files' output_dir."
    ),
]
_Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Encoded pictures and captions, which runs may share; else `cache` in the output "
        "folder.",
    ),
]
_Events = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What happens is appended here, one JSON object a line; else `events.jsonl` in "
        "the output folder.",
    ),
]
_Control = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="One word, read between steps: run, pause or stop; else `control` in the output "
        "folder.",
    ),
]
_Ranks = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1024,
        help="Processes that train, each on a GPU of its own; else for an adapter as many as there "
        "are GPUs, num_processes at most, and as share a step's batches evenly.",
    ),
]


def train(
    *,
    config: Config,
    setting: Setting = None,
    output_dir: _Output = None,
    cache: _Cache = None,
    events: _Events = None,
    control: _Control = None,
    ranks: _Ranks = None,
    allow_network: AllowNetwork = None,
) -> None:
    """Train from SimpleTuner's files on this machine, exactly as they are, without the service.

    Pictures that are elsewhere (a list of addresses, the Hub, a bucket, tar
    files) are fetched once into REVERIE_HOME (~/.reverie/sources) and kept
    there.

    Images and captions are encoded once and kept. The same command again
    resumes from the newest checkpoint, unless resume_from_checkpoint is empty
    or names a checkpoint.

    Ctrl-C and SIGTERM stop the run with a checkpoint of its last step; a
    second Ctrl-C stops it at once, without one. Exit status: 0 finished,
    1 failed, 2 wrong usage, 75 stopped on request, 130 stopped at once.
    """
    from services.cli.documents import read_documents
    from trainer_core.local.run import LocalRun
    from trainer_core.paths import expanded, search_folders

    settings, allowed = settings_of(setting), networks_in(allow_network)
    working_dir = Path.cwd()
    documents = read_documents(config, settings, working_dir, os.environ)
    for file in documents.used:
        output.print_note(f"{file.option:<20} {file.path}")
    for note in documents.notes:
        output.print_note(f"warning: {note}")
    config_dir = (config if config.is_dir() else config.parent).resolve()
    run = LocalRun(
        config=documents.body["config"],
        lycoris_config=documents.body.get("lycoris_config"),
        data_backends=documents.body["data_backends"],
        prompt_library=documents.body.get("prompt_library"),
        folders=search_folders(config_dir, working_dir),
        output_dir=output_dir,
        cache_dir=None if cache is None else expanded(cache),
        events=None if events is None else expanded(events),
        control=None if control is None else expanded(control),
        allowed=allowed,
        ranks=ranks,
    )
    result = _train_shown(run)
    if result is None:
        output.print_note("stopped; the same command resumes from here")
        raise typer.Exit(_EXIT_STOPPED)
    output.print_facts({"result": result})


def _train_shown(run: "LocalRun") -> Path | None:
    """Train with progress on stderr; problems of the files are printed and exit with status 1."""
    from services.cli.hub_publishing import publishing_to_hub
    from services.cli.signals import StopSignals
    from services.cli.train_view import open_view
    from trainer_core.config.plan.problems import PlanError
    from trainer_core.local.run import train_locally
    from trainer_core.process.cuda_memory import let_segments_grow
    from trainer_core.process.node_cache import keep_kernels, node_cache_of

    keep_kernels(node_cache_of(os.environ), os.environ)
    let_segments_grow(os.environ)
    _, err = output.consoles()
    try:
        # stdout is for the result alone: what libraries print there goes to stderr.
        with open_view(err) as view, contextlib.redirect_stdout(sys.stderr):
            signals = StopSignals(view.log).handle
            return train_locally(run, os.environ, view, signals, publishing_to_hub)
    except PlanError as error:
        for problem in error.problems:
            output.print_error(f"{problem.pointer}: {problem.message} [{problem.code}]")
        raise typer.Exit(_EXIT_FAILED) from error
