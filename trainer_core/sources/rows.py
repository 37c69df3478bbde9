"""Rows of a source become files: a picture as its bytes are, and its captions beside it."""

import contextlib
import hashlib
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from trainer_core.data.formats import CAPTION_SUFFIX, IMAGE_SUFFIXES, suffix_of
from trainer_core.data.images import inspect_image, suffix_of_content
from trainer_core.disk import DiskError, writing
from trainer_core.errors import BadCaptionError, BadImageError
from trainer_core.progress import Reporter
from trainer_core.sources.errors import RowError
from trainer_core.sources.places import SourcePlace
from trainer_core.web.fetching import FetchError

_THREADS: Final = 8
_WAITING: Final = 4 * _THREADS
_NAMED_AT_MOST: Final = 3
_CHECK_SPACE_EVERY: Final = 50
_TOLD_EVERY_S: Final = 0.2
_MAX_NAME_BYTES: Final = 200
_HIDING: Final = re.compile(r"^[\s.]+")
"""What a name does not begin with, so that none is hidden, or leads to another folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One picture of a source."""

    key: str
    """Path of its file without a suffix, with ``/``; stable from one revision to the next."""
    token: str
    """Names its content, as in ``KnownRow``."""
    suffix: str
    """As far as it is known; the content decides where it is no suffix of pictures."""
    label: str
    """Names the row in a message."""
    captions: tuple[str, ...] | str | None
    """Each a line; or the text of a caption file as it is; None: no caption file is written."""
    write: Callable[[Path], None]
    """Writes the picture's bytes; raises RowError, FetchError or OSError."""


@dataclass(slots=True)
class Tally:
    """What became of the rows."""

    pictures: int = 0
    left_out: int = 0
    why: list[str] = field(default_factory=list)
    """Of the first rows that were left out."""

    def add(self, other: "Tally") -> None:
        """Count what another one has counted, too."""
        self.pictures += other.pictures
        self.left_out += other.left_out
        self.why += other.why[: _NAMED_AT_MOST - len(self.why)]

    def leave_out(self, why: str) -> None:
        self.left_out += 1
        if len(self.why) < _NAMED_AT_MOST:
            self.why.append(why)

    def note(self) -> list[str]:
        """A sentence about what was left out; none where nothing was."""
        if not self.left_out:
            return []
        more = "; …" if self.left_out > len(self.why) else ""
        rows = "row is" if self.left_out == 1 else "rows are"
        return [f"{self.left_out} {rows} left out: {'; '.join(self.why)}{more}"]


def store_rows(
    rows: Iterable[Row],
    total: int,
    place: SourcePlace,
    reporter: Reporter,
    tally: Tally,
    *,
    stage: str,
    max_file_bytes: int,
    done_before: int = 0,
) -> None:
    """Store rows with several threads, and count them in ``tally``.

    Args:
        rows: read as they are needed, so that they may be very many.
        total: how many rows there are altogether, also those counted before.
        place: where to; a row that is there with the same content is not fetched again.
        reporter: gets the progress, and can stop the work.
        tally: of all rows of the source.
        stage: of the progress.
        max_file_bytes: larger pictures are left out.
        done_before: rows of the source that another tally has counted.

    Raises:
        DiskError: the disk is full or fails.
        StopRequestedError: what is stored stays.
    """
    place.stopping.clear()
    progress = _Progress(reporter, stage, total, tally, done_before)
    waiting: dict[Future[str | None], Row] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for number, row in enumerate(rows):
            if number % _CHECK_SPACE_EVERY == 0:
                place.check_space()
            waiting[pool.submit(_store, row, place, max_file_bytes)] = row
            if len(waiting) >= _WAITING:
                _count(_some_done(waiting), place, tally)
            progress.tell()
        while waiting:
            _count(_some_done(waiting), place, tally)
            progress.tell()
    finally:
        place.stopping.set()
        pool.shutdown(cancel_futures=True)
        _note_stored(waiting, place)


def _note_stored(waiting: Mapping[Future[str | None], Row], place: SourcePlace) -> None:
    """Record what was stored beside a row that ended the fetch, so that it is not fetched again."""
    for future, row in waiting.items():
        if future.cancelled() or future.exception() is not None:
            continue
        if (name := future.result()) is not None:
            with contextlib.suppress(DiskError):
                place.note(row.key, row.token, name)


def _some_done(
    waiting: dict[Future[str | None], Row],
) -> Iterator[tuple[Row, Future[str | None]]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for each in done:
        yield waiting.pop(each), each


def _count(
    done: Iterable[tuple[Row, Future[str | None]]], place: SourcePlace, tally: Tally
) -> None:
    for row, future in done:
        try:
            name = future.result()
        except RowError as error:
            tally.leave_out(f"{row.label}: {error}")
        except (BadImageError, BadCaptionError, FetchError) as error:
            tally.leave_out(error.message)
        else:
            tally.pictures += 1
            if name is not None:
                place.note(row.key, row.token, name)


def _store(row: Row, place: SourcePlace, max_file_bytes: int) -> str | None:
    """The name of the stored file; None where it was there before."""
    with writing(place.files):
        known = place.known(row.key, row.token)
        if known is not None:
            _write_captions(row, known.file)
            return None
        earlier = place.from_earlier(row.key, row.token)
        if earlier is not None:
            name = _name_of(row, earlier.suffix)
            file = place.files / name
            _write_captions(row, file)
            _link(earlier, file)
            return name
        draft = place.drafts / f"{os.urandom(8).hex()}.part"
        try:
            return _fetched(row, place, draft, max_file_bytes)
        finally:
            draft.unlink(missing_ok=True)


def _fetched(row: Row, place: SourcePlace, draft: Path, max_file_bytes: int) -> str:
    """Fetch a picture and check that it decodes; the name of its file."""
    row.write(draft)
    size_bytes = draft.stat().st_size
    if size_bytes > max_file_bytes:
        raise RowError(
            f"{size_bytes:,} bytes, more than source_max_file_mb allows ({max_file_bytes:,})"
        )
    inspect_image(draft, name=row.label)
    name = _name_of(row, suffix_for(row, draft))
    file = place.files / name
    _write_captions(row, file)
    draft.replace(file)
    return name


def suffix_for(row: Row, file: Path) -> str:
    """The suffix of a row's picture: its own, or where that is none of pictures its content's."""
    suffix = row.suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else suffix_of_content(file, name=row.label)


def _name_of(row: Row, suffix: str) -> str:
    """The file of a row, in the folder; checked again here, where it is written."""
    name = PurePosixPath(f"{row.key}{suffix}")
    if name.is_absolute() or ".." in name.parts:
        raise RowError("its name leads out of the folder")
    return name.as_posix()


def _write_captions(row: Row, file: Path) -> None:
    """Write the captions beside a picture, before that has its name; whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if row.captions is None:
        return
    target = file.with_suffix(CAPTION_SUFFIX)
    text = caption_text(row)
    if not text:
        target.unlink(missing_ok=True)
        return
    draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def caption_text(row: Row) -> str:
    """The content of a row's caption file; empty where it has none.

    Half a character, such as of an emoji that was cut in JSON, becomes a question mark.
    """
    text = row.captions
    if not isinstance(text, str):
        text = "".join(f"{one_line(each)}\n" for each in text or ())
    return text.encode("utf-8", "replace").decode()


def _link(earlier: Path, file: Path) -> None:
    """Have a file of another revision here, too, without its bytes twice where the disk can."""
    file.unlink(missing_ok=True)
    try:
        os.link(earlier, file)
    except OSError:
        draft = file.with_name(f".{file.name}.{os.urandom(4).hex()}.tmp")
        draft.write_bytes(earlier.read_bytes())
        draft.replace(file)


def one_line(caption: str) -> str:
    """A caption as one line of a caption file: line breaks become blanks, and NULs go."""
    lines = (line.strip() for line in caption.replace("\0", " ").splitlines())
    return " ".join(line for line in lines if line)


def safe_key(path: str) -> str:
    """A relative path of a source as one that is safe on this disk; ``..`` and the like go.

    Without the suffix.
    """
    at = PurePosixPath(path.replace("\\", "/").lstrip("/"))  # "//" at the start is a root, too
    plain = [
        "".join(c if c.isprintable() else "_" for c in _HIDING.sub("", part))
        for part in (at.with_suffix("").parts if at.name else at.parts)
    ]
    kept = [name for part in plain if (name := _cut(part))]
    return "/".join([*map(_folder_name, kept[:-1]), *kept[-1:]]) or "_"


def _folder_name(name: str) -> str:
    """A name that no picture and no caption has: in a bucket, ``a.png`` may be a folder, too."""
    return f"{name}_" if suffix_in(name) in (*IMAGE_SUFFIXES, CAPTION_SUFFIX) else name


def _cut(name: str) -> str:
    """As much of a name as a file's may have beside what is added to it; disks count bytes."""
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore").strip()


def own_key(key: str, path: str, taken: set[str], *, suffix: str = "") -> str:
    """A key for the file of this path that no other row has; it is added to ``taken``.

    A key has no suffix and is cut, so that several files may ask for the same one. So may names
    that differ in case only, which are one file on some disks, and in a dataset of the service.
    ``suffix``: of the file, where it alone is written, so that another suffix makes another file.
    """
    if _folded(f"{key}{suffix}") in taken:
        key = f"{key}-{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
    taken.add(_folded(f"{key}{suffix}"))
    return key


def _folded(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()


def refuse(why: str, _to: Path) -> None:
    """``write`` of a row that has no usable picture."""
    raise RowError(why)


def suffix_in(path: str) -> str:
    """The suffix of a path or address, in lower case."""
    return suffix_of(PurePosixPath(path))


class _Progress:
    """Reports the progress, and checks for a stop; not more often than a person reads."""

    def __init__(
        self, reporter: Reporter, stage: str, total: int, tally: Tally, done_before: int
    ) -> None:
        self._reporter, self._stage, self._total, self._tally = reporter, stage, total, tally
        self._done_before = done_before
        self._told_s = float("-inf")

    def tell(self) -> None:
        self._reporter.check_control()
        now_s = time.monotonic()
        done = self._done_before + self._tally.pictures + self._tally.left_out
        if now_s - self._told_s >= _TOLD_EVERY_S or done >= self._total:
            self._told_s = now_s
            self._reporter.progress(self._stage, done, max(self._total, done))
