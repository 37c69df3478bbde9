"""`reverie models`: the base models that the operator of this machine offers."""

import os
from pathlib import Path
from typing import Annotated

import typer

from services.cli import output
from services.cli.connection import CommandError

app = typer.Typer(no_args_is_help=True, help="Base models on this machine (for its operator).")


@app.command("make-tiny")
def make_tiny(
    folder: Annotated[Path, typer.Argument(help="Where to write it; must not exist yet.")],
) -> None:
    """Write a tiny random model of HiDream's shape, to try everything out on a CPU."""
    from trainer_core.base_models.known import TEST_MODELS, TINY_NAME
    from trainer_core.base_models.obtain import write_test_model

    if folder.exists():
        raise CommandError(f"{folder} exists already")
    write_test_model(folder, TEST_MODELS[TINY_NAME])
    output.print_note(f"wrote the base model {TINY_NAME} to {folder}")
    _note_when_elsewhere(folder)


@app.command("list")
def list_models(
    models_dir: Annotated[
        Path | None,
        typer.Option(help="The folder of base models (REVERIE_MODELS_DIR).", show_default=False),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show the base models in the operator's folder."""
    from trainer_core.base_models.describe import read_base_models

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
        Path,
        typer.Argument(exists=True, file_okay=False, help="A model in diffusers' layout."),
    ],
    name: Annotated[str, typer.Option(help="What runs call it, e.g. HiDream-ai/HiDream-I1-Full.")],
) -> None:
    """Hash every file of a model and write its reverie-base.json, so that runs can name it."""
    from trainer_core.base_models.describe import describe_base
    from trainer_core.base_models.layout import transformer_config

    transformer_config(folder)  # an error before the files are hashed, which takes minutes
    output.print_note(f"hashing the files of {folder} …")
    model = describe_base(folder, name)
    output.print_facts({"name": model.name, "digest": model.digest, "folder": model.folder})
    _note_when_elsewhere(folder)


def _models_dir() -> Path:
    from services.settings.env import Settings

    return Settings.from_env(os.environ).models_dir


def _note_when_elsewhere(folder: Path) -> None:
    """The service reads the sub-folders of one folder only."""
    if folder.resolve().parent != _models_dir().resolve():
        output.print_note(
            f"the service looks into {_models_dir()}: move or link the folder there, or set "
            "REVERIE_MODELS_DIR"
        )
