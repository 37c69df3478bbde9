"""The adapter that a new run starts from: one in the service, or a local file to push."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.cli import output
from services.cli.connection import CommandError
from services.cli.documents import Documents, plain_name
from services.domain.starts import HOW_NAMED, parse_start
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import Findings, read_options
from trainer_core.config.simpletuner.start import INIT_LORA, start_name_of
from trainer_core.export.start_file import start_named
from trainer_core.paths import is_file, is_folder, places_of, search_folders
from trainer_core.weights.entries import BadHeaderError, read_entries
from trainer_core.weights.start_adapter import MAX_UPLOAD_BYTES, MAX_UPLOAD_HEADER_BYTES

if TYPE_CHECKING:
    from services.client.client import Client


_OF_SERVICE: Final = ("run_", "ds_")
"""How names of what the service has begin."""


def local_start(documents: Documents, working_dir: Path) -> Path | None:
    """The local adapter file that ``init_lora`` names; None where it names none, or a stored one.

    Raises AdapterFileError where there is no such file, or it is damaged, and CommandError where it
    is no adapter file, or none that the service accepts.
    """
    options = read_options(documents.body["config"], OPTIONS, "/config", Findings(), "http")
    name = start_name_of(options)
    if name is None or parse_start(name) is not None:
        return None
    folders = search_folders(documents.config_dir, working_dir)
    is_here = any(is_file(place) or is_folder(place) for place in places_of(name, folders))
    if name.startswith(_OF_SERVICE) and not is_here:
        raise CommandError(f"init_lora: {name} is no run, no dataset and no file: {HOW_NAMED}")
    found = start_named(name, folders)
    if found.state is not None:
        raise CommandError(
            f"init_lora names {found.name}, a checkpoint on this machine: name the result of its "
            "run, or an adapter file"
        )
    if found.path is not None:
        _check_sizes(found.path)
    return found.path


def _check_sizes(file: Path) -> None:
    """Raise CommandError where the file is larger than the service accepts."""
    if file.stat().st_size > MAX_UPLOAD_BYTES:
        raise CommandError(
            f"init_lora: {file} has {file.stat().st_size} bytes; the service accepts at most "
            f"{MAX_UPLOAD_BYTES}"
        )
    try:
        read_entries(file, limit_bytes=MAX_UPLOAD_HEADER_BYTES)
    except BadHeaderError as error:
        raise CommandError(f"init_lora: {error}") from error


def with_start(body: Mapping[str, Any], named: str | None) -> dict[str, Any]:
    """The request with another ``init_lora``, or without."""
    kept = {
        name: value for name, value in body["config"].items() if plain_name(name) != INIT_LORA.name
    }
    added = {} if named is None else {INIT_LORA.name: named}
    return {**body, "config": {**kept, **added}}


def push_start(client: "Client", file: Path) -> str:
    """Push an adapter file as a dataset; returns the dataset's id."""
    from services.cli.datasets import push_shown

    dataset_id = push_shown(client, file, None)["id"]
    output.print_note(f"{INIT_LORA.name:<20} {file} pushed as {dataset_id}")
    return dataset_id
