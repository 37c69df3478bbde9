"""Rows of a parquet file with pictures in it, as the Hub stores datasets of images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trainer_core.config.simpletuner.source_types import CaptionColumns, RowFilter
from trainer_core.sources.captions import value_in
from trainer_core.sources.errors import RowError, SourceError

_AT_ONCE: Final = 16
_WIDTH, _HEIGHT, _COLLECTION = "width", "height", "collection"


def open_parquet(file: Path) -> Any:
    """The file by pyarrow; raises SourceError where it is none, or pyarrow is not installed."""
    try:
        import pyarrow  # noqa: PLC0415 - an extra, and slow to import
        import pyarrow.parquet  # noqa: PLC0415 - rarely wanted
    except ImportError as error:
        raise SourceError(
            "parquet files are read by pyarrow, which is not installed: pip install "
            "'reverie[sources]'"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, ValueError) as error:
        raise SourceError(f"{file.name} is no parquet file: {error}") from error


def columns_to_read(
    known: Sequence[str],
    image: str,
    captions: CaptionColumns | None,
    rows: RowFilter,
) -> list[str]:
    """The columns of a file that are needed; raises SourceError where the main ones are missing.

    Args:
        known: of the file.
        image: column of the pictures.
        captions: None: no captions are wanted.
        rows: needs columns, too.
    """
    shown = ", ".join(known)[:300]
    if image not in known:
        raise SourceError(f"it has no column {image} (image_column); its columns: {shown}")
    wanted = [image, rows.quality_column, _WIDTH, _HEIGHT, _COLLECTION]
    if captions is not None:
        tops = [each if each in known else each.split(".")[0] for each in captions.columns]
        after = [each if each in known else each.split(".")[0] for each in captions.fallback]
        if not any(each in known for each in (*tops, *after)):
            missing = " or ".join(captions.columns)
            raise SourceError(f"it has no column {missing} (caption_column); its columns: {shown}")
        wanted += [*tops, *after]
    return [each for each in dict.fromkeys(wanted) if each in known]


def rows_of_file(opened: Any, columns: Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
    """The rows in their order, a few at a time in memory. ``columns``: None for all."""
    wanted = None if columns is None else list(columns)
    for batch in opened.iter_batches(batch_size=_AT_ONCE, columns=wanted):
        yield from batch.to_pylist()


def is_taken(row: Mapping[str, Any], rows: RowFilter) -> bool:
    """Whether a row passes the filter, by SimpleTuner's rule."""
    if rows.collections and row.get(_COLLECTION) not in rows.collections:
        return False
    if rows.thresholds:
        quality = row.get(rows.quality_column)
        if not isinstance(quality, Mapping) or not quality:
            return False
        if any(_number(quality.get(name)) < least for name, least in rows.thresholds.items()):
            return False
    return not (
        (rows.min_width and _number(row.get(_WIDTH)) < rows.min_width)
        or (rows.min_height and _number(row.get(_HEIGHT)) < rows.min_height)
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def picture_in(row: Mapping[str, Any], column: str) -> tuple[bytes | str, str]:
    """The picture of a row, or the address of it, and the name that it has there.

    Raises RowError where there is none.
    """
    value = value_in(row, column)
    match value:
        case bytes():
            return value, ""
        case {"bytes": bytes(content), **rest}:
            return content, str(rest.get("path") or "")
        case str() if value.startswith(("http://", "https://")):
            return value, value
        case {"path": str(path)} if path.startswith(("http://", "https://")):
            return path, path
        case _:
            raise RowError(f"column {column} holds no picture")
