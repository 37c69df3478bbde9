"""`reverie models`: the base models that the operator of this machine offers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli import output
from services.cli.connection import CommandError

app = typer.Typer(no_args_is_help=True, help="Base models on this machine (for its operator).")

Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


@app.command("make-tiny")
def make_tiny(
    folder: Annotated[Path, typer.Argument(help="Where to; nothing may be there yet.")],
) -> None:
    """Write a tiny random model of HiDream's shape, to try everything out on a CPU."""
    if folder.exists():
        raise CommandError(f"{folder} is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "trainer_core", "make-tiny", str(folder)]
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if status != 0:
        raise CommandError(f"making the model failed with status {status}")
    output.print_note(f"wrote the base model hidream-tiny to {folder}")
    _note_when_elsewhere(folder)


@app.command("list")
def list_models(
    models_dir: Annotated[
        Path | None,
        typer.Option(help="The folder of base models (REVERIE_MODELS_DIR).", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the base models in the operator's folder."""
    from trainer_core.base_models.describe import read_base_models  # noqa: PLC0415

    found = read_base_models(models_dir or _models_dir())
    if as_json:
        output.print_json(
            [
                {"name": model.name, "digest": model.digest, "folder": str(model.folder)}
                for model in found.values()
            ]
        )
        return
    rows = [(model.name, model.digest[:16], model.folder) for model in found.values()]
    output.print_table(("NAME", "DIGEST", "FOLDER"), rows)


@app.command("register")
def register(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="A model as diffusers writes it.")
    ],
    name: Annotated[str, typer.Option(help="What runs call it, e.g. HiDream-ai/HiDream-I1-Full.")],
) -> None:
    """Hash every file of a model and describe it, so that runs can name it."""
    from trainer_core.base_models.describe import describe_base  # noqa: PLC0415

    if not (folder / "transformer" / "config.json").is_file():
        raise CommandError(f"{folder} holds no transformer/config.json: not a model of diffusers")
    output.print_note(f"hashing the files of {folder} …")
    model = describe_base(folder, name)
    output.print_facts({"name": model.name, "digest": model.digest, "folder": model.folder})
    _note_when_elsewhere(folder)


def _models_dir() -> Path:
    from services.settings.env import Settings  # noqa: PLC0415

    return Settings.from_env(os.environ).models_dir


def _note_when_elsewhere(folder: Path) -> None:
    """The service looks at the sub-folders of one folder only."""
    if folder.resolve().parent != _models_dir().resolve():
        output.print_note(
            f"the service looks into {_models_dir()}: move or link the folder there, or set "
            "REVERIE_MODELS_DIR"
        )
