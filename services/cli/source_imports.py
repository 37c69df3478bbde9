"""A data backend of a configuration as the service imports it, with the list that it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.cli.connection import CommandError
from services.cli.documents import read_documents
from trainer_core.config.simpletuner.local_backends import check_backend
from trainer_core.config.simpletuner.reading import option_name, text_of
from trainer_core.config.simpletuner.remote_sources import list_address, remote_source
from trainer_core.config.simpletuner.source_types import CsvSource, PictureSource
from trainer_core.paths import search_folders
from trainer_core.sources.errors import SourceError
from trainer_core.sources.surroundings import local_file

MAX_LIST_BYTES: Final = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SentSource:
    """What is sent to the service."""

    source: dict[str, Any]
    csv: str | None
    """The content of the list of this machine that the backend names."""


def source_to_import(
    config: Path, backend: str, settings: Mapping[str, Any], env: Mapping[str, str]
) -> SentSource:
    """Read a data backend and its list; raises CommandError where it cannot be imported."""
    documents = read_documents(config, settings, Path.cwd(), env)
    body = documents.body
    if problems := check_backend(body["config"], body["data_backends"], backend):
        raise CommandError("\n".join(problems))
    source = next(
        item for item in body["data_backends"] if isinstance(item, dict) and _id(item) == backend
    )
    listed = remote_source(source, with_list=True).source
    if listed is not None and list_address(listed) is None:
        return SentSource(source=source, csv=_list(listed, documents.config_dir))
    if problems := [each.message for each in remote_source(source, with_list=False).problems]:
        raise CommandError("\n".join(problems))
    return SentSource(source=source, csv=None)


def _list(source: PictureSource, config_dir: Path) -> str:
    assert isinstance(source.place, CsvSource)
    try:
        file = local_file(source.place.file, "csv_file", search_folders(config_dir, Path.cwd()))
        text = file.read_bytes().decode("utf-8-sig")  # captions keep the ends of their lines
    except SourceError as error:
        raise CommandError(error.message) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text: save it as such") from error
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    if len(text.encode()) > MAX_LIST_BYTES:
        raise CommandError(
            f"{file} has more than {MAX_LIST_BYTES:,} bytes: put it at an address and name that in "
            "csv_file, or fetch it on this machine with `reverie datasets push CONFIG --backend ID`"
        )
    return text


def _id(item: Mapping[str, Any]) -> str | None:
    return next((text_of(v) for key, v in item.items() if option_name(key) == "id"), None)
