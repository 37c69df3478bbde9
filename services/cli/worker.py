"""`reverie worker`: a GPU worker on a machine that reaches the service over HTTPS only."""

from pathlib import Path
from typing import Annotated, Final

import typer

EXAMPLE: Final = """Example:

REVERIE_WORKER_KEY_FILE=worker.key reverie worker --join https://reverie.example.org"""


def worker(
    join: Annotated[str, typer.Option("--join", metavar="URL", help="Address of the service.")],
    *,
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM certificates that are trusted, too."),
    ] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Only on a network that is private by other means.")
    ] = False,
) -> None:
    """Train runs of a service on this machine until Ctrl-C.

    It needs a worker's key (REVERIE_WORKER_KEY_FILE, or REVERIE_WORKER_KEY), base models in
    REVERIE_MODELS_DIR, and disk space in REVERIE_SCRATCH_DIR. An operator makes the key with
    `reverie admin worker-keys create`.
    """
    from services.remote.session import Trust
    from services.trainer.join import join as join_service

    raise typer.Exit(join_service(join, Trust(ca_file=ca_file, allow_http=allow_http)))
