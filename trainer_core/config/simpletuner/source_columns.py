"""The objects in a data backend that say which columns and rows of a source are read."""

from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.reading import Options, read_options
from trainer_core.config.simpletuner.source_types import CaptionColumns, CaptionTable, RowFilter
from trainer_core.config.simpletuner.verdicts import Option, Table

_MAX_COLUMNS: Final = 20
_NOT_NEEDED: Final = "Rows are read one file after the other and kept as files."

HUB_BLOCK: Final = Table()
HUB_DATASET: Final = HUB_BLOCK.text("dataset_name", None, "The dataset.")
HUB_SPLIT: Final = HUB_BLOCK.text("split", None, "The split.")
HUB_REVISION: Final = HUB_BLOCK.text("revision", None, "Branch, tag or commit.")
HUB_CONFIG: Final = HUB_BLOCK.text("dataset_config", None, "The configuration.")
HUB_IMAGE: Final = HUB_BLOCK.text("image_column", None, "Column of the pictures.")
_HUB_CAPTION: Final = HUB_BLOCK.value("caption_column", "Column of the captions, or a list.")
_HUB_FALLBACK: Final = HUB_BLOCK.text("fallback_caption_column", None, "Where it is empty.")
_HUB_DESCRIPTION: Final = HUB_BLOCK.text("description_column", "description", "After that.")
_HUB_QUALITY: Final = HUB_BLOCK.text("quality_column", None, "Column of the qualities.")
_HUB_FILTER: Final = HUB_BLOCK.value("filter_func", "Which rows are taken.")
_HUB_COMPOSITE: Final = HUB_BLOCK.value("composite_image_config", "Grids of pictures.")
HUB_BLOCK.handled("cache_dir streaming num_proc auto_load", _NOT_NEEDED)
HUB_BLOCK.handled("width_column height_column file_extension", "Every picture is measured.")
HUB_BLOCK.no_effect(
    "bbox_column video_column num_frames_column fps_column audio_column lyrics_column "
    "audio_caption_fields",
    "It belongs to another kind of data.",
)

_FILTER: Final = Table()
_COLLECTION: Final = _FILTER.value("collection", "Values of the column collection.")
_THRESHOLDS: Final = _FILTER.value("quality_thresholds", "Field → smallest value.")
_QUALITY: Final = _FILTER.text("quality_column", None, "Column of the qualities.")
_MIN_WIDTH: Final = _FILTER.number("min_width", 0, "Of the column width.", at_least=0)
_MIN_HEIGHT: Final = _FILTER.number("min_height", 0, "Of the column height.", at_least=0)

_TABLE: Final = Table()
_PATH: Final = _TABLE.text("path", None, "The table.")
_FILENAME: Final = _TABLE.text("filename_column", None, "Column of the names of the files.")
_TABLE_CAPTION: Final = _TABLE.value("caption_column", "Column of the captions, or a list.")
_TABLE_FALLBACK: Final = _TABLE.text("fallback_caption_column", None, "Where it is empty.")
_SUFFIXES: Final = _TABLE.flag("identifier_includes_extension", False, "Names have suffixes.")
_TABLE.handled("width_column height_column", "Every picture is measured.")
_TABLE.no_effect("bbox_column video_column num_frames_column fps_column", "Boxes are not trained.")


def block_of(options: Options, row: Option[JsonValue], table: Table) -> Options:
    """The options in the object of a row; none where it is not given."""
    raw = options[row]
    if raw is not None and not isinstance(raw, dict):
        options.problem(row, "bad_value", f"{row.name} has to be an object.")
    item: Mapping[str, JsonValue] = raw if isinstance(raw, dict) else {}
    return read_options(
        item,
        table.rows,
        options.at(row),
        options.findings,
        options.source,
        backend=options.backend,
    )


def hub_captions(
    options: Options, row: Option[JsonValue], fallback: Option[str | None], block: Options
) -> CaptionColumns | None:
    """The columns of the captions, from the backend or from its block."""
    columns = _columns(options, row) if options.given(row) else _columns(block, _HUB_CAPTION)
    if columns is None:
        return None
    after = (options[fallback] or block[_HUB_FALLBACK], block[_HUB_DESCRIPTION])
    return CaptionColumns(
        columns=columns or ("caption",), fallback=tuple(each for each in after if each)
    )


def _columns(options: Options, row: Option[JsonValue]) -> tuple[str, ...] | None:
    """A column or a list of columns; None, and a problem, where it is neither."""
    value = options[row]
    listed = value if isinstance(value, list) else [] if value in (None, "") else [value]
    if len(listed) > _MAX_COLUMNS or not all(isinstance(each, str) and each for each in listed):
        message = f"{row.name} has to be a column, or a list of at most {_MAX_COLUMNS} columns."
        options.problem(row, "bad_value", message)
        return None
    return tuple(dict.fromkeys(str(each) for each in listed))


def row_filter(options: Options, row: Option[JsonValue], block: Options) -> RowFilter:
    """Which rows of a dataset of the Hub are taken; reports what is wrong with it.

    ``row``: of the backend, for where its block has no filter.
    """
    if _is_on(block[_HUB_COMPOSITE]):
        message = "Grids of pictures are not cut in this version: bring single pictures."
        block.problem(_HUB_COMPOSITE, "not_implemented", message)
    if block.given(_HUB_FILTER):
        found = block_of(block, _HUB_FILTER, _FILTER)
        options.idle("with that of huggingface", row)
    else:
        found = block_of(options, row, _FILTER)
    collection, thresholds = found[_COLLECTION], found[_THRESHOLDS] or {}
    names = [collection] if isinstance(collection, str) else collection or []
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        found.problem(_COLLECTION, "bad_value", "collection has to be a text or a list of texts.")
        names = []
    if not isinstance(thresholds, dict) or not all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in thresholds.values()
    ):
        message = "quality_thresholds has to be an object of numbers."
        found.problem(_THRESHOLDS, "bad_value", message)
        thresholds = {}
    return RowFilter(
        collections=tuple(str(each) for each in names),
        quality_column=found[_QUALITY] or block[_HUB_QUALITY] or "quality_assessment",
        thresholds={name: float(str(value)) for name, value in thresholds.items()},
        min_width=found[_MIN_WIDTH],
        min_height=found[_MIN_HEIGHT],
    )


def _is_on(composite: JsonValue) -> bool:
    return isinstance(composite, dict) and bool(composite.get("enabled"))


def table_in(options: Options, row: Option[JsonValue]) -> CaptionTable | None:
    """The table of captions; None, and problems, where something is missing."""
    if not isinstance(options[row], dict):
        message = (
            "caption_strategy parquet needs a parquet object with path, filename_column and "
            "caption_column."
        )
        options.problem(row, "missing" if options.is_missing(row) else "bad_value", message)
        return None
    block = block_of(options, row, _TABLE)
    columns = _columns(block, _TABLE_CAPTION)
    path, filename = block[_PATH], block[_FILENAME]
    for needed, value in ((_PATH, path), (_FILENAME, filename), (_TABLE_CAPTION, columns)):
        if (not value and value is not None) or (value is None and block.is_missing(needed)):
            block.problem(needed, "missing", f"parquet needs a {needed.name}.")
    if not path or not filename or not columns:
        return None
    fallback = block[_TABLE_FALLBACK]
    return CaptionTable(
        path=path,
        filename_column=filename,
        captions=CaptionColumns(columns=columns, fallback=(fallback,) if fallback else ()),
        has_suffixes=block[_SUFFIXES],
    )
