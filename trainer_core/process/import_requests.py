"""Requests to the process that fetches parts of a source: `python -m trainer_core fetch`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from trainer_core.config.plan.frozen import Frozen, Many, digest_of
from trainer_core.data.mask_levels import Lit


def cache_folder(root: Path, source: Mapping[str, Any]) -> Path:
    """The folder of a source in ``FetchRequest.cache``."""
    return root / digest_of(dict(source))[:24]


class PositionDocument(Frozen):
    """``trainer_core.sources.numbered.Position``: the next row of a source."""

    revision: str
    shard: int
    row: int
    before: int


class FetchRequest(Frozen):
    """Fetch the next rows of a source, as files."""

    source: dict[str, JsonValue]
    """A data backend, as in multidatabackend.json."""
    list_file: str | None
    """The list of a source that has one, on this machine; None: it has none, or it is fetched."""
    position: PositionDocument | None
    """None: the start."""
    cache: str
    """A folder for files that several requests need."""
    folder: str
    """A new folder for the files of this one."""
    allowed: Many[str]
    """Networks that addresses may lead to although they are not public."""
    max_rows: int
    max_bytes: int
    max_s: float
    """It ends with the row that reaches one of the three."""
    leaves_out_first: bool = False
    """Leave out the first row: the process died when it fetched that."""


class FetchedFile(Frozen):
    """A file of a row."""

    path: str
    """In the dataset: relative, with ``/``."""
    local_name: str
    """In the folder of the request."""
    media: Literal["image", "caption"]
    size_bytes: int
    sha256: str
    width_px: int | None
    """Of an image, as it is displayed; None for a caption, and so are the next two."""
    height_px: int | None
    lit: Lit | None


class LeftOut(Frozen):
    """A row that has no usable picture."""

    row: str
    """Its address, path or number."""
    message: str
    may_pass: bool
    """The same row may be usable a moment later."""


class FetchReply(Frozen):
    """What became of the rows."""

    files: Many[FetchedFile]
    left_out: Many[LeftOut]
    position: PositionDocument
    """Where the next request goes on."""
    is_last: bool
    """No row is left."""
    rows_done: int
    """Rows of the source that are before the position."""
    rows_total: int | None
    """None: not known."""
    list_name: str | None
    """The name of the list that was fetched, in ``folder``; None where none was wanted."""
