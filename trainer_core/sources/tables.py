"""Captions of files in a table: parquet, JSON or JSON lines, as SimpleTuner's ``parquet`` block."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from trainer_core.config.plan import plain_backend
from trainer_core.config.simpletuner.source_types import CaptionTable
from trainer_core.data.captions import captions_of
from trainer_core.data.folder import some_of
from trainer_core.in_words import counted
from trainer_core.sources.captions import captions_of_row
from trainer_core.sources.errors import SourceError
from trainer_core.sources.parquet_rows import open_parquet

MAX_TABLE_BYTES: Final = 4 << 30
_NAMES: Final = plain_backend("names", role="train", caption_strategy="filename")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedCaptions:
    """The captions of a table."""

    name: str
    table: CaptionTable
    captions: Mapping[str, tuple[str, ...]]
    """As ``read_table`` gives them."""
    missing: list[str] = field(default_factory=list)
    """Paths that were asked for and that it lacks."""

    def of(self, path: str) -> tuple[str, ...]:
        """The captions of a file by its path in the folder.

        As in SimpleTuner, a file that the table lacks is captioned by its name.
        """
        found = self.captions.get(_key(path, has_suffix=self.table.has_suffixes))
        if found is None:
            self.missing.append(path)
            return captions_of(_NAMES, path, None)
        return found

    def notes(self) -> list[str]:
        """A sentence about what it lacks; none where it lacks nothing."""
        if not self.missing:
            return []
        what = counted(len(self.missing), "picture")
        names = some_of(self.missing)
        return [f"{what} not in {self.name} have their names as captions: {names}"]


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
