"""Reads the files that ``caption_filter_list`` names into the data backends."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.cli.connection import CommandError
from trainer_core.config.simpletuner.reading import option_name
from trainer_core.documents import load_document, read_text
from trainer_core.errors import DocumentError

OPTION: Final = "caption_filter_list"
_OFF: Final = ("", "none", "false")


def with_filter_lists(
    backends: Sequence[Any], find_file: Callable[[str], Path]
) -> tuple[list[Any], list[Path], list[tuple[str, CommandError | DocumentError]]]:
    """The backends with lists in place of names of files.

    Args:
        backends: of multidatabackend.json.
        find_file: the path of the file that an option names; raises CommandError.

    Returns:
        The backends; the files that were read; and for each file that cannot be used a JSON Pointer
        and the error.
    """
    found, files, problems = [], [], []
    for position, backend in enumerate(backends):
        filled = backend
        if (named := _file_named(backend)) is not None:
            key, name = named
            try:
                file = find_file(name)
                filled = {**backend, key: _entries_in(file)}
                files.append(file)
            except (CommandError, DocumentError) as error:
                problems.append((f"/data_backends/{position}/{key}", error))
        found.append(filled)
    return found, files, problems


def _file_named(backend: Any) -> tuple[str, str] | None:
    """The key as written and the name of a file; None where there is none."""
    if not isinstance(backend, Mapping):
        return None
    for key, value in backend.items():
        if option_name(str(key)) == OPTION and isinstance(value, str):
            return (key, value) if value.strip().lower() not in _OFF else None
    return None


def _entries_in(file: Path) -> list[str]:
    """The entries of a .txt file, one a line with its blanks, or of a .json file."""
    if file.suffix.lower() == ".txt":
        return [line for line in read_text(file).splitlines() if line]
    content = load_document(file)
    if not isinstance(content, list) or not all(isinstance(each, str) for each in content):
        raise CommandError(f"{file} has to hold a list of texts, or be a .txt file with one a line")
    return [str(each) for each in content]
