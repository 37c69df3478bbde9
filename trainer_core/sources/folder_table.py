"""A folder on this machine whose captions are in a table: links beside text files."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from trainer_core.data.folder import list_files
from trainer_core.sources.rows import Row, own_key, suffix_in
from trainer_core.sources.tables import NamedCaptions


def pictures_in(folder: Path) -> dict[str, str]:
    """Relative path of each picture → its size and time, which change with its content."""
    found: dict[str, str] = {}
    for path in list_files(folder).images:
        stat = (folder / path).stat()
        found[path] = f"{stat.st_size}-{stat.st_mtime_ns}"
    return found


def rows_of_folder(
    folder: Path, pictures: Mapping[str, str], named: NamedCaptions
) -> Iterator[Row]:
    """The rows of a folder."""
    taken: set[str] = set()
    for path, token in pictures.items():
        suffix = suffix_in(path)
        yield Row(
            key=own_key(path[: len(path) - len(suffix)], path, taken),
            token=token,
            suffix=suffix,
            label=path,
            captions=named.of(path),
            write=functools.partial(_link, folder / path),
        )


def _link(file: Path, to: Path) -> None:
    """A hard link where the disk can, so that no byte is there twice; else a copy."""
    try:
        os.link(file.resolve(), to)
    except OSError:
        to.write_bytes(file.read_bytes())
