"""The next rows of a source, fetched into a folder and checked, as much as one request may take."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from trainer_core.data.captions import MAX_CAPTION_BYTES, decode_caption
from trainer_core.data.formats import CAPTION_SUFFIX
from trainer_core.data.images import ImageFacts, inspect_image
from trainer_core.digests import sha256_of
from trainer_core.errors import BadCaptionError, BadImageError
from trainer_core.in_words import printable
from trainer_core.sources.errors import RowError
from trainer_core.sources.numbered import Position, Step
from trainer_core.sources.rows import Row, caption_text, suffix_for
from trainer_core.web.fetching import FetchError

_THREADS: Final = 8
_SHOWN_CHARACTERS: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class PortionLimits:
    """A portion ends with the row that reaches one of these."""

    rows: int
    size_bytes: int
    seconds: float
    file_bytes: int
    """Larger pictures are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PortionFile:
    """A picture, or the captions of one."""

    path: str
    """In the dataset."""
    local: Path
    media: Literal["image", "caption"]
    size_bytes: int
    sha256: str
    facts: ImageFacts | None
    """Of a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedRow:
    """A row that has no usable picture."""

    label: str
    message: str
    may_pass: bool
    """The same row may be usable a moment later."""


@dataclass(slots=True)
class Portion:
    """What became of the rows."""

    position: Position
    """Behind them."""
    files: list[PortionFile] = field(default_factory=list)
    left_out: list[UnusedRow] = field(default_factory=list)
    is_last: bool = False
    size_bytes: int = 0


def fetch_portion(
    steps: Iterator[Step],
    position: Position,
    folder: Path,
    limits: PortionLimits,
    stopping: threading.Event,
    *,
    leaves_out_first: bool = False,
) -> Portion:
    """Fetch rows with several threads, and decode their pictures one by one.

    Args:
        steps: from ``position`` on.
        position: of the first row.
        folder: an empty one.
        limits: of this portion.
        stopping: the one that ``steps`` were opened with; it is set after an error.
        leaves_out_first: the first row is not fetched, because the process died of it.

    Raises SourceError where the source as a whole cannot be read, and OSError.
    """
    ends_s = time.monotonic() + limits.seconds
    portion = Portion(position=position)
    waiting: deque[tuple[Step, Future[None] | None, Path]] = deque()
    taken = begun = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            while True:
                while len(waiting) < _THREADS and not portion.is_last:
                    # A file none of whose rows pass the filter is a step on, too.
                    is_late = begun > 0 and time.monotonic() >= ends_s
                    if is_late or taken >= limits.rows or portion.size_bytes >= limits.size_bytes:
                        break
                    if (step := next(steps, None)) is None:
                        portion.is_last = True
                        break
                    draft, fetched = folder / f"{taken}.part", None
                    if step.row is not None and not (leaves_out_first and taken == 0):
                        fetched = pool.submit(step.row.write, draft)
                    waiting.append((step, fetched, draft))
                    taken += step.row is not None
                    begun += 1
                if not waiting:
                    return portion
                _take(portion, *waiting.popleft(), limits.file_bytes)
        except BaseException:
            stopping.set()
            raise


def _take(
    portion: Portion, step: Step, fetched: Future[None] | None, draft: Path, max_bytes: int
) -> None:
    """Wait for a row, and add what it gives."""
    if step.row is not None and fetched is None:
        portion.left_out.append(
            _unused(step.row, "it cannot be decoded within the limits on time and memory")
        )
    elif step.row is not None and fetched is not None:
        try:
            fetched.result()
            files = _files_of(step.row, draft, max_bytes)
        except FetchError as error:
            portion.left_out.append(_unused(step.row, error.message, may_pass=error.retryable))
        except RowError as error:
            portion.left_out.append(_unused(step.row, f"{step.row.label}: {error}"))
        except (BadImageError, BadCaptionError) as error:
            portion.left_out.append(_unused(step.row, error.message))
        else:
            portion.files += files
            portion.size_bytes += sum(file.size_bytes for file in files)
    portion.position = step.after


def _unused(row: Row, message: str, *, may_pass: bool = False) -> UnusedRow:
    return UnusedRow(
        label=printable(row.label, _SHOWN_CHARACTERS),
        message=printable(message, _SHOWN_CHARACTERS),
        may_pass=may_pass,
    )


def _files_of(row: Row, draft: Path, max_bytes: int) -> list[PortionFile]:
    size_bytes = draft.stat().st_size
    if size_bytes > max_bytes:
        raise RowError(f"{size_bytes:,} bytes; a picture may have {max_bytes:,}")
    # What it is used for is not known yet.
    facts = inspect_image(draft, name=row.label, is_mask=True)
    files = [_file(f"{row.key}{suffix_for(row, draft)}", draft, "image", facts)]
    text = caption_text(row).replace("\0", " ")
    if text:
        body = text.encode()
        if len(body) > MAX_CAPTION_BYTES:
            raise RowError(f"its captions have more than {MAX_CAPTION_BYTES:,} bytes together")
        decode_caption(body, name=row.label)
        captions = draft.with_suffix(CAPTION_SUFFIX)
        captions.write_bytes(body)
        files.append(_file(f"{row.key}{CAPTION_SUFFIX}", captions, "caption", None))
    return files


def _file(
    path: str, local: Path, media: Literal["image", "caption"], facts: ImageFacts | None
) -> PortionFile:
    return PortionFile(
        path=path,
        local=local,
        media=media,
        size_bytes=local.stat().st_size,
        sha256=sha256_of(local),
        facts=facts,
    )
