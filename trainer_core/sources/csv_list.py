"""A CSV list of addresses, each with a caption: every address is downloaded once."""

import csv
import functools
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from trainer_core.config.simpletuner.source_types import CsvSource, PictureSource
from trainer_core.sources.errors import SourceError
from trainer_core.sources.rows import Row, suffix_in
from trainer_core.web.fetching import FetchLimits, fetch, retried, shown_url
from trainer_core.web.public_addresses import Network

_TRIES: Final = 3
_FIRST_WAIT_S: Final = 0.5
_MAX_LIST_BYTES: Final = 2 << 30
_MAX_FIELD_CHARACTERS: Final = 1 << 20


def read_list(file: Path, source: CsvSource, *, shown: str | None = None) -> dict[str, str]:
    """Address → caption, in the order of the list; of equal addresses the last one counts.

    Args:
        file: the list.
        source: names its columns.
        shown: what messages call it; None: by its path.

    Raises SourceError where the file cannot be read or lacks a column.
    """
    name = str(file) if shown is None else shown
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    found: dict[str, str] = {}
    try:
        if file.stat().st_size > _MAX_LIST_BYTES:
            raise SourceError(f"{name} has more than {_MAX_LIST_BYTES:,} bytes: cut it")
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            _check_columns(name, rows.fieldnames or (), source)
            for row in rows:
                url = (row[source.url_column] or "").strip()
                if url:
                    found.pop(url, None)
                    found[url] = row.get(source.caption_column) or ""
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{name} is not UTF-8 text (byte {error.start}): save it as such"
        ) from error
    except csv.Error as error:
        raise SourceError(f"{name} is no CSV: {error}") from error
    return found


def _check_columns(name: str, columns: Sequence[str], source: CsvSource) -> None:
    for option, column in (
        ("csv_url_column", source.url_column),
        ("csv_caption_column", source.caption_column),
    ):
        if column not in columns:
            shown = ", ".join(str(each) for each in columns)[:300] or "none"
            raise SourceError(f"{name} has no column {column} ({option}); its columns: {shown}")


def rows_of_list(
    listed: Mapping[str, str],
    source: PictureSource,
    allowed: Sequence[Network],
    stopping: threading.Event,
) -> Iterator[Row]:
    """The rows of a list.

    Args:
        listed: address → caption.
        source: says what is wanted of them.
        allowed: networks that may be reached although they are not public.
        stopping: gives up downloads under way when it is set.
    """
    limits = FetchLimits(max_bytes=source.max_file_bytes)
    for url, caption in listed.items():
        yield Row(
            key=hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32],
            token="",
            suffix=_suffix_of(url),
            label=shown_url(url),
            captions=((caption,) if caption.strip() else ()) if source.wants_captions else None,
            write=functools.partial(
                download, url, limits=limits, allowed=allowed, stopping=stopping
            ),
        )


def _suffix_of(url: str) -> str:
    try:
        return suffix_in(urlsplit(url).path)
    except ValueError:
        return ""


def download(
    url: str,
    to: Path,
    *,
    limits: FetchLimits,
    allowed: Sequence[Network],
    stopping: threading.Event,
) -> None:
    """Download an address, up to three times where it may pass."""
    once = functools.partial(fetch, url, to, limits, allowed=allowed, stopping=stopping)
    retried(once, tries=_TRIES, first_wait_s=_FIRST_WAIT_S, stopping=stopping)
