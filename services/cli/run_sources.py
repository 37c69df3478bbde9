"""The datasets of a new run's image backends: stored ones, or local folders to push."""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from services.cli import output
from services.cli.connection import CommandError
from services.domain.ids import is_id

if TYPE_CHECKING:
    from services.cli.documents import Documents
    from services.client.client import Client

_SECRET: Final = re.compile(
    r"(?:^|_)(?:\w*(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|APIKEY)|KEYS?|AUTH|CREDENTIALS?)"
    r"(?:_|$)",
    re.IGNORECASE,
)
"""In the name of a variable."""


def parse_sources(pairs: Sequence[str]) -> dict[str, str | Path]:
    """``BACKEND=DATASET|DIR`` texts as backend id → dataset id or local folder.

    Raises typer.BadParameter where a text is neither, or names a backend twice.
    """
    sources: dict[str, str | Path] = {}
    for pair in pairs:
        backend, equals, source = pair.partition("=")
        if not (backend and equals and source):
            raise _wrong(
                f"{pair!r} is not BACKEND=DATASET, with a backend's id from the data backends file"
            )
        if backend in sources:
            raise _wrong(f"{backend} is given twice")
        if is_id(source, "ds"):
            sources[backend] = source
        elif Path(source).expanduser().is_dir():
            sources[backend] = Path(source).expanduser()
        else:
            raise _wrong(f"{source!r} is neither a dataset (ds_…) nor a folder")
    return sources


def check_before_push(
    client: "Client", request: Mapping[str, Any], sources: Iterable[str | Path | None]
) -> None:
    """Raise CommandError where the service would refuse the run, before anything is pushed for it.

    Args:
        request: without datasets, and without what is pushed.
        sources: local ones, which are pushed next, and others.
    """
    from services.client.errors import FieldProblem, ProblemError

    if not any(isinstance(source, Path) for source in sources):
        return
    try:
        found = client.validate_run(request)
    except ProblemError as error:
        if error.status == HTTPStatus.FORBIDDEN:  # a key that may submit runs and read none
            return
        raise
    if not found["is_valid"]:
        problems = [str(FieldProblem.of_json(dict(each))) for each in found["problems"]]
        lines = (f"  {each}" for each in problems)
        raise CommandError("\n".join(["the run has mistakes; nothing was pushed", *lines]))


def tell_before_sending(documents: "Documents") -> None:
    """Print what is not read, and which variables of this machine become part of the request.

    Raises CommandError for a variable that seems to hold a secret: a run's documents are stored and
    shown.
    """
    for note in documents.notes:
        output.print_note(f"warning: {note}")
    secret = [name for name in documents.replaced if _SECRET.search(name)]
    if secret:
        at = documents.replaced[secret[0]]
        raise CommandError(
            f"{at} has {{env:{secret[0]}}}, which seems to be a secret; the service would store "
            f"and show it with the run. Take it out; `reverie secrets set` stores tokens and keys"
        )
    if documents.replaced:
        output.print_note(f"{'sent in {env:…}':<20} {', '.join(sorted(documents.replaced))}")


def push_sources(client: "Client", sources: Mapping[str, str | Path]) -> dict[str, str]:
    """Backend id → dataset id; a folder that two backends read is pushed once."""
    from services.cli.datasets import push_shown

    pushed: dict[Path, str] = {}
    datasets: dict[str, str] = {}
    for backend, source in sources.items():
        if isinstance(source, str):
            datasets[backend] = source
            continue
        folder = source.resolve()
        if folder not in pushed:
            pushed[folder] = push_shown(client, source, None)["id"]
            output.print_note(f"{backend:<20} {source} pushed as {pushed[folder]}")
        datasets[backend] = pushed[folder]
    return datasets


def _wrong(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--dataset")
