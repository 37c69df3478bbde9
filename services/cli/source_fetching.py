"""Backends whose pictures are elsewhere: fetched with a progress bar, and described as local."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output

if TYPE_CHECKING:
    from trainer_core.config.simpletuner.source_types import PictureSource
    from trainer_core.progress import Reporter
    from trainer_core.sources.surroundings import Surroundings
    from trainer_core.web.public_addresses import Network

AllowNetwork = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-network",
        metavar="CIDR",
        help="Addresses of pictures (in lists, of buckets and tar files) may lead to this network, "
        "such as 192.168.1.0/24; else only to the public internet.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFolders:
    """What the backends of a run were fetched to."""

    folders: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """Backend id → why its pictures are not there."""


def networks_in(written: Sequence[str] | None) -> "tuple[Network, ...]":
    """The networks of ``--allow-network``; raises typer.BadParameter."""
    try:
        return tuple(ip_network(each) for each in written or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--allow-network") from error


def surroundings(
    env: Mapping[str, str], folders: Sequence[Path], allowed: "tuple[Network, ...]"
) -> "Surroundings":
    """Where sources are fetched to; ``folders``: where files that they name are looked up."""
    from trainer_core.base_models.describe import home_of
    from trainer_core.sources.fetching import sources_in
    from trainer_core.sources.surroundings import Surroundings

    return Surroundings(root=sources_in(home_of(env)), folders=folders, allowed=allowed)


def fetch_all(
    sources: "Mapping[str, PictureSource]", around: "Surroundings", reporter: "Reporter"
) -> SourceFolders:
    """Fetch every source; one that cannot be fetched is a problem and stops no other."""
    from trainer_core.sources.errors import SourceError
    from trainer_core.sources.fetching import fetch_source

    found = SourceFolders()
    for id_, source in sources.items():
        try:
            fetched = fetch_source(id_, source, around, reporter)
        except SourceError as error:
            found.problems[id_] = error.message
        else:
            found.folders[id_] = fetched.folder
            found.warnings.extend(fetched.notes)
    return found


@contextmanager
def fetch_progress() -> "Iterator[Reporter]":
    """Bars with rate and remaining time on stderr; without a terminal a line now and then."""
    from services.cli.train_view import open_view

    _, err = output.consoles()
    with open_view(err) as view:
        yield _Shown(view)


class _Shown:
    """A ``Reporter`` on a view, which Ctrl-C stops as it stops any command."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def log(self, text: str) -> None:
        self._view.log(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._view.progress(stage, done, total)

    def check_control(self) -> None:
        pass


def local_folders(
    body: dict[str, Any],
    folders: Sequence[Path],
    env: Mapping[str, str],
    allowed: "tuple[Network, ...]",
    *,
    named: Collection[str],
) -> dict[str, Path]:
    """Fetch the sources of a run that is sent to the service, and describe them as local there.

    Args:
        body: the run's documents; its data backends are replaced.
        folders: where files that they name are looked up.
        env: REVERIE_HOME is read.
        allowed: networks beside the public internet.
        named: backends that have a dataset of the service, so that nothing is fetched for them.

    Returns:
        Backend id → folder to push.

    Raises:
        CommandError: a source cannot be fetched.
    """
    from services.cli.connection import CommandError
    from trainer_core.config.simpletuner.local_backends import as_local, sources_of

    found = sources_of(body["config"], body["data_backends"])
    wanted = {id_: source for id_, source in found.items() if id_ not in named}
    fetched = SourceFolders()
    if wanted:
        with fetch_progress() as reporter:
            fetched = fetch_all(wanted, surroundings(env, folders, allowed), reporter)
    if fetched.problems:
        raise CommandError("\n".join(fetched.problems.values()))
    for warning in fetched.warnings:
        output.print_note(f"warning: {warning}")
    body["data_backends"] = as_local(body["data_backends"], found)
    return fetched.folders
