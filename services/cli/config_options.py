"""SimpleTuner's files on the command line: --config names them, --set replaces an option."""

from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[
    Path,
    typer.Option(exists=True, metavar="DIR|FILE", help="SimpleTuner's config.json, or its folder."),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace an option of config.json. Repeatable."
    ),
]


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """The options that --set replaces; raises typer.BadParameter."""
    from services.cli.documents import parse_settings

    try:
        return parse_settings(pairs or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
