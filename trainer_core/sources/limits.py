"""How many rows of a source are fetched."""

from collections.abc import Mapping
from typing import TypeVar

from trainer_core.config.simpletuner.source_types import MAX_ROWS, PictureSource
from trainer_core.sources.errors import SourceError

T = TypeVar("T")


def check_rows(number: int) -> None:
    """Raise SourceError where a source has more rows than are fetched without being asked."""
    if number > MAX_ROWS:
        raise SourceError(
            f"it has {number:,} rows, more than {MAX_ROWS:,}: set source_max_rows to take the "
            "first ones"
        )


def cut_note(number: int, kept: int) -> tuple[str, ...]:
    """A sentence where rows are left away on request."""
    if kept == number:
        return ()
    return (f"the first {kept:,} of {number:,} rows are taken, as source_max_rows asks",)


def limited(rows: Mapping[str, T], source: PictureSource) -> dict[str, T]:
    """The rows that are taken; raises SourceError where there are more than may be fetched."""
    if source.max_rows is None:
        check_rows(len(rows))
    most = source.max_rows or MAX_ROWS
    return dict(item for _, item in zip(range(most), rows.items(), strict=False))
