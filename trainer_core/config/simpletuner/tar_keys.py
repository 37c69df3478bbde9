"""Keys of data backends whose pictures are in tar files (``type: webshart``, ``webdataset``)."""

from typing import Final, Literal

from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.source_columns import block_of
from trainer_core.config.simpletuner.source_types import TarSource
from trainer_core.config.simpletuner.verdicts import Option, Table

TAR_KEYS: Final = Table()
_TARS: Final = TAR_KEYS.text(
    "source",
    None,
    "webshart, webdataset: a folder with tar files or one of them, an address "
    "(https://example.com/{00000..00011}.tar), or a dataset of the Hub.",
)
_METADATA: Final = TAR_KEYS.text(
    "metadata",
    None,
    "webshart, webdataset: where the JSON files with captions are, if not beside the tar files: a "
    "folder, an address or a dataset of the Hub.",
)
_SUBFOLDER: Final = TAR_KEYS.text(
    "subfolder", None, "webshart, webdataset: folder of the dataset of the Hub."
)
_MAX_SIZE: Final[Option[int | None]] = TAR_KEYS.integer(
    "max_file_size",
    None,
    "webshart, webdataset: larger files in the tar files are left out; in bytes.",
    at_least=1,
)
_BLOCK: Final = TAR_KEYS.value(
    "webshart", "webshart: an object with the keys above, hf_token and what keeps its own caches."
)
OF_TARS: Final[tuple[Option[object], ...]] = (_TARS, _METADATA, _SUBFOLDER, _MAX_SIZE, _BLOCK)
_NOT_KEPT: Final = "Tar files are read one after the other, and their pictures kept as files."

_IN_BLOCK: Final = Table()
_TARS_IN: Final = _IN_BLOCK.text("source", None, "The tar files.")
_METADATA_IN: Final = _IN_BLOCK.text("metadata", None, "Their JSON files.")
_SUBFOLDER_IN: Final = _IN_BLOCK.text("subfolder", None, "A folder of the dataset.")
_TOKEN_IN: Final = _IN_BLOCK.secret("hf_token", "A token of the Hub.")
_MAX_SIZE_IN: Final[Option[int | None]] = _IN_BLOCK.integer(
    "max_file_size", None, "In bytes.", at_least=1
)
_IN_BLOCK.handled(
    "cache_dir metadata_cache_dir shard_cache_dir shard_cache_gb parallel_downloads buffer_size "
    "optimize_captions optimise_captions",
    _NOT_KEPT,
)
_IN_BLOCK.not_built(
    "caption_key",
    "which keys of the JSON files are captions cannot be chosen: write the text under `caption`, "
    "or put a text file beside each picture, and leave this out.",
)


def tar_place(
    options: Options,
    kind: Literal["webshart", "webdataset"],
    token: Option[str | None],
    *,
    are_whole_texts: bool,
) -> TarSource | None:
    """The tar files of a backend; None, and a problem, where none are named.

    Args:
        options: of the backend.
        kind: its type.
        token: of the Hub.
        are_whole_texts: a text file is one caption, also where it has several lines.
    """
    block = block_of(options, _BLOCK, _IN_BLOCK)
    source = options[_TARS] or block[_TARS_IN]
    if not source:
        if not options.is_wrong(_TARS) and not block.is_wrong(_TARS_IN):
            message = f"type {kind} needs a source: where its tar files are."
            options.problem(_TARS, "missing", message)
        return None
    return TarSource(
        source=source,
        metadata=options[_METADATA] or block[_METADATA_IN] or None,
        subfolder=(options[_SUBFOLDER] or block[_SUBFOLDER_IN] or "").strip("/"),
        has_first_dots=kind == "webdataset",
        are_whole_texts=are_whole_texts,
        max_file_bytes=options[_MAX_SIZE] or block[_MAX_SIZE_IN],
        token=options[token] or block[_TOKEN_IN] or None,
    )
