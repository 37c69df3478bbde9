"""Keys of data backends whose pictures are elsewhere: lists, the Hub, buckets, and tar files."""

from collections.abc import Mapping
from typing import Final, Literal

from trainer_core.config.plan import CaptionStrategy
from trainer_core.config.simpletuner import source_columns as blocks
from trainer_core.config.simpletuner.bucket_keys import BUCKET_KEYS, OF_BUCKETS, bucket_place
from trainer_core.config.simpletuner.reading import Options, Source
from trainer_core.config.simpletuner.source_types import (
    MAX_FILE_BYTES,
    MAX_ROWS,
    CsvSource,
    FolderSource,
    HubSource,
    PictureSource,
    Place,
    SourceKind,
)
from trainer_core.config.simpletuner.tar_keys import OF_TARS, TAR_KEYS, tar_place
from trainer_core.config.simpletuner.verdicts import Option, Table, joined

RowStrategy = Literal["parquet", "csv", "huggingface", "webshart"]
"""Captions that come with the rows that pictures are fetched from."""
WrittenStrategy = CaptionStrategy | RowStrategy

SOURCES: Final = Table()
KIND: Final[Option[SourceKind]] = SOURCES.choice(
    "type",
    SourceKind,
    "local",
    "Where the pictures are: a local folder, a csv list of addresses, a dataset of the Hub "
    "(huggingface), a bucket of S3 (aws), or tar files (webshart; webdataset, where a name's key "
    "ends at its first dot). In a local run they are fetched first; the service takes local, with "
    "the images as files.",
    known=("memory",),
    nearest="local, with the images as files",
)
_CSV_FILE: Final = SOURCES.path("csv_file", "csv: the list, a file on this machine.")
_CSV_URL: Final = SOURCES.text("csv_url_column", "url", "csv: column of the addresses.")
_CSV_CAPTION: Final = SOURCES.text("csv_caption_column", "caption", "csv: column of the captions.")
_DATASET: Final = SOURCES.text("dataset_name", None, "huggingface: the dataset, owner/name.")
_SPLIT: Final = SOURCES.text(
    "split", None, "huggingface: the split, train by default; train[:500] takes its first 500 rows."
)
_REVISION: Final = SOURCES.text(
    "revision", None, "huggingface: branch, tag or commit; the newest commit by default."
)
_CONFIG: Final = SOURCES.text(
    "dataset_config", None, "huggingface: a configuration of the dataset, else its default."
)
_IMAGE: Final = SOURCES.text("image_column", None, "huggingface: column of the pictures (image).")
_CAPTION: Final = SOURCES.value(
    "caption_column", "huggingface: column of the captions (caption), or a list of columns."
)
_FALLBACK: Final = SOURCES.text(
    "fallback_caption_column", None, "huggingface: taken where the caption is empty."
)
_HUB: Final = SOURCES.value(
    "huggingface",
    "huggingface: an object with the keys above, filter_func (collection, quality_thresholds, "
    "quality_column, min_width, min_height) and description_column.",
)
_FILTER: Final = SOURCES.value(
    "filter_func", "huggingface: which rows are taken; that of the object huggingface goes first."
)
_TOKEN: Final = SOURCES.secret(
    "hf_token", "huggingface, webshart: a token of the Hub; by default HF_TOKEN."
)
SOURCES.alias("auth_token", _TOKEN)
_TABLE: Final = SOURCES.value(
    "parquet",
    "With caption_strategy parquet: an object with path (of a .parquet, .json or .jsonl file), "
    "filename_column, caption_column (or a list), fallback_caption_column and "
    "identifier_includes_extension (false).",
)
_MAX_ROWS: Final[Option[int | None]] = SOURCES.integer(
    "source_max_rows",
    None,
    "Reverie's own: so many rows of a source are taken, the first ones.",
    at_least=1,
    at_most=MAX_ROWS,
)
_MAX_FILE: Final = SOURCES.integer(
    "source_max_file_mb",
    MAX_FILE_BYTES >> 20,
    "Reverie's own: larger files of a source are left out; in MiB.",
    at_least=1,
    at_most=4096,
)
FOLDER: Final = SOURCES.path("instance_data_dir", "Folder of the images, in a local run.")
SOURCES.alias("instance_data_root", FOLDER)

SOURCE_KEYS: Final = joined(SOURCES, BUCKET_KEYS, TAR_KEYS)
"""Every key that says where pictures are."""
_OWN: Final[dict[SourceKind, tuple[Option[object], ...]]] = {
    "local": (FOLDER, _TABLE),
    "csv": (_CSV_FILE, _CSV_URL, _CSV_CAPTION),
    "huggingface": (
        *(_DATASET, _SPLIT, _REVISION, _CONFIG, _IMAGE, _CAPTION, _FALLBACK, _HUB, _FILTER, _TOKEN),
    ),
    "aws": (*OF_BUCKETS, _TABLE, FOLDER),
    "webshart": (*OF_TARS, _TOKEN),
    "webdataset": (*OF_TARS, _TOKEN),
}
"""The keys of each type."""
_OF_FILES: Final = ("filename", "textfile", "instanceprompt", "parquet")
_STRATEGIES: Final[Mapping[SourceKind, tuple[WrittenStrategy, ...]]] = {
    "local": _OF_FILES,
    "aws": _OF_FILES,
    "csv": ("csv", "instanceprompt"),
    "huggingface": ("huggingface", "instanceprompt"),
    "webshart": ("webshart", "instanceprompt"),
    "webdataset": ("webshart", "instanceprompt"),
}
"""Where captions may come from, by type that is fetched; the first is the default."""
_PUSH: Final = (
    "the service takes images as files: `reverie datasets push CONFIG --backend ID` fetches these "
    "and uploads them, and `reverie runs submit` does it by itself"
)
IMPORTED: Final[tuple[SourceKind, ...]] = ("csv", "huggingface", "webshart", "webdataset")
"""Types that the service fetches, for a dataset."""
_IMPORT: Final = (
    "have the service fetch it into a dataset first, with this backend as source of `POST "
    "/v1/datasets` or by `reverie datasets import CONFIG --backend ID`; then name the dataset in "
    "datasets, at once, and write type local here. `reverie runs submit` fetches on your machine "
    "and uploads instead"
)


def has_names(kind: SourceKind) -> bool:
    """Whether the pictures are files with names and with files beside them, and no rows."""
    return _STRATEGIES[kind] is _OF_FILES


def default_strategy_of(kind: SourceKind) -> WrittenStrategy | None:
    """The source of captions where none is given; None: that of files."""
    return None if has_names(kind) else _STRATEGIES[kind][0]


def check_strategy(
    strategy: WrittenStrategy, kind: SourceKind, options: Options, row: Option[object]
) -> None:
    """Report a source of captions that pictures of this type do not have."""
    possible = _STRATEGIES[kind]
    if strategy not in possible:
        message = f"caption_strategy with type {kind} is {' or '.join(possible)}, not {strategy}."
        options.problem(row, "conflict", message)


def is_refused_kind(kind: SourceKind, source: Source) -> bool:
    """Whether pictures of this type cannot be used in a run of this source."""
    return source == "http" and kind != "local"


def refuse_kind(options: Options) -> None:
    """Report a type that cannot be used, with what to do."""
    kind = options[KIND]
    if options.source == "http" and kind in IMPORTED:
        message = f"type {kind} is not read by runs over HTTP: {_IMPORT}."
        options.problem(KIND, "not_implemented", message)
    elif options.source == "http" and kind != "local":
        options.problem(KIND, "not_implemented", f"type {kind} is not built over HTTP; {_PUSH}.")


def source_of(
    options: Options, strategy: WrittenStrategy, *, is_mask: bool, are_whole_texts: bool = False
) -> PictureSource | None:
    """What the pictures of a backend are fetched from; None where its folder is read as it is.

    ``are_whole_texts``: a text file in a tar file is one caption, also where it has several lines.

    Reports problems of its keys, and keys of other types, which have no effect.
    """
    kind = options[KIND]
    own = _OWN[kind]
    others = dict.fromkeys(row for rows in _OWN.values() for row in rows if row not in own)
    options.idle(f"with type {kind}", *others)
    if strategy != "parquet":
        options.idle(f"with caption_strategy {strategy}", *(row for row in own if row is _TABLE))
    if options.source == "http":
        if strategy == "parquet":
            message = f"caption_strategy parquet is not built over HTTP; {_PUSH}."
            options.problem(_TABLE, "not_implemented", message)
        return None
    table = blocks.table_in(options, _TABLE) if strategy == "parquet" else None
    place = _place_of(kind, options, are_whole_texts=are_whole_texts)
    if place is None or (isinstance(place, FolderSource) and table is None):
        options.idle("where no picture is fetched", _MAX_ROWS, _MAX_FILE)
        return None
    return PictureSource(
        place=place,
        wants_captions=not is_mask and strategy not in ("instanceprompt", "filename"),
        table=table,
        max_rows=options[_MAX_ROWS],
        max_file_bytes=options[_MAX_FILE] << 20,
    )


def _place_of(kind: SourceKind, options: Options, *, are_whole_texts: bool) -> Place | None:
    """The place; None where a key that it needs is missing, which is reported."""
    match kind:
        case "local":
            folder = options[FOLDER]
            return FolderSource(folder=folder) if folder else None
        case "csv":
            return _csv_place(options)
        case "huggingface":
            return _hub_place(options)
        case "aws":
            return bucket_place(options, FOLDER)
        case "webshart" | "webdataset":
            return tar_place(options, kind, _TOKEN, are_whole_texts=are_whole_texts)


def _csv_place(options: Options) -> CsvSource | None:
    file = _needed(options, _CSV_FILE, options[_CSV_FILE])
    if file is None:
        return None
    return CsvSource(
        file=file,
        url_column=options[_CSV_URL] or "url",
        caption_column=options[_CSV_CAPTION] or "caption",
    )


def _hub_place(options: Options) -> HubSource | None:
    block = blocks.block_of(options, _HUB, blocks.HUB_BLOCK)
    dataset = _needed(options, _DATASET, options[_DATASET] or block[blocks.HUB_DATASET])
    captions = blocks.hub_captions(options, _CAPTION, _FALLBACK, block)
    rows = blocks.row_filter(options, _FILTER, block)
    if not dataset or captions is None:
        return None
    return HubSource(
        dataset=dataset,
        revision=options[_REVISION] or block[blocks.HUB_REVISION] or None,
        split=options[_SPLIT] or block[blocks.HUB_SPLIT] or "train",
        config=options[_CONFIG] or block[blocks.HUB_CONFIG] or None,
        image_column=options[_IMAGE] or block[blocks.HUB_IMAGE] or "image",
        captions=captions,
        rows=rows,
        token=options[_TOKEN] or None,
    )


def _needed(options: Options, row: Option[str | None], value: str | None) -> str | None:
    """The value; None, and a problem, where there is none."""
    if not value and not options.is_wrong(row):
        options.problem(row, "missing", f"type {options[KIND]} needs a {row.name}.")
    return value or None
