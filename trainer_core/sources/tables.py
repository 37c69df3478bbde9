"""Captions of files in a table: parquet, JSON or JSON lines, as SimpleTuner's ``parquet`` block."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from trainer_core.config.plan import plain_backend
from trainer_core.config.simpletuner.source_types import CaptionTable
from trainer_core.data.captions import captions_of
from trainer_core.sources.captions import captions_of_row
from trainer_core.sources.errors import SourceError
from trainer_core.sources.parquet_rows import open_parquet

MAX_TABLE_BYTES: Final = 4 << 30
_NAMES: Final = plain_backend("names", role="train", caption_strategy="filename")


def read_table(file: Path, table: CaptionTable) -> dict[str, tuple[str, ...]]:
    """Name in the table → captions; names without suffixes unless the table has them.

    Raises SourceError where the table cannot be read or lacks a column.
    """
    found: dict[str, tuple[str, ...]] = {}
    rows = _rows(file)
    known = list(dict.fromkeys(column for row in rows[:100] for column in row))
    tops = [each.split(".")[0] for each in table.captions.columns]
    for option, columns in (("filename_column", [table.filename_column]), ("caption_column", tops)):
        if not any(column in known for column in columns):
            shown = ", ".join(known)[:300] or "none"
            raise SourceError(
                f"{file} has no column {' or '.join(columns)} ({option}); its columns: {shown}"
            )
    for row in rows:
        name = row.get(table.filename_column)
        if name is not None:
            found[_key(str(name), has_suffix=table.has_suffixes)] = captions_of_row(
                row, table.captions
            )
    return found


def captions_by_table(
    captions: Mapping[str, tuple[str, ...]], table: CaptionTable, path: str
) -> tuple[tuple[str, ...], bool]:
    """The captions of a file, and whether the table has it.

    As in SimpleTuner, a file that the table lacks is captioned by its name.

    ``path``: relative to the folder of the files.
    """
    key = _key(path, has_suffix=table.has_suffixes)
    found = captions.get(key)
    if found is None:
        return captions_of(_NAMES, path, None), False
    return found, True


def _key(name: str, *, has_suffix: bool) -> str:
    path = PurePosixPath(name.replace("\\", "/").removeprefix("./").lstrip("/"))
    is_number = not has_suffix and path.suffix[1:].isdigit()
    is_whole = has_suffix or is_number or not path.name
    return path.as_posix() if is_whole else path.with_suffix("").as_posix()


def _rows(file: Path) -> list[Mapping[str, Any]]:
    readers: dict[str, Callable[[Path], Any]] = {
        ".parquet": lambda path: open_parquet(path).read().to_pylist(),
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8-sig")),
        ".jsonl": json_lines,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise SourceError(f"parquet.path names {file}: it has to be .parquet, .json or .jsonl")
    try:
        if file.stat().st_size > MAX_TABLE_BYTES:
            raise SourceError(f"{file} has more than {MAX_TABLE_BYTES:,} bytes")
        rows = reader(file)
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file} cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise SourceError(f"{file} has to hold a list of objects, or one a line in a .jsonl file")
    return [row for row in rows if isinstance(row, dict)]


def json_lines(path: Path) -> list[Any]:
    """The values of a file with one a line; raises ValueError and OSError."""
    text = path.read_text(encoding="utf-8-sig")
    # Not splitlines: JSON may have U+2028 and others of its line breaks inside a text.
    return [json.loads(line) for line in text.split("\n") if line.strip()]
