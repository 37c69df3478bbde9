"""The folder of a source on this machine: finished files, and what is known of each row.

Files appear under their names only when they are whole, so that a fetch can be killed at any point.
``complete.json`` comes last; a fetch that finds it has nothing to do.
"""

import contextlib
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from trainer_core.config.plan.frozen import digest_of
from trainer_core.disk import DiskError, writing
from trainer_core.folder_lock import locked_folder
from trainer_core.progress import Reporter
from trainer_core.whole_file import replace_text

FILES: Final = "files"
_COMPLETE: Final = "complete.json"
_ROWS: Final = "rows.jsonl"
_DRAFTS: Final = "drafts"
_ON_THE_WAY: Final = (_DRAFTS, "hub", "tars")
"""Folders of what is not finished, such as large files that are read one after the other."""
_VERSION: Final = 1
_KEPT_FREE_BYTES: Final = 1 << 30
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Complete:
    """What a finished fetch left."""

    pictures: int
    left_out: int
    notes: tuple[str, ...]
    """What is not there and why, each a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRow:
    """A row whose picture is on this disk."""

    key: str
    token: str
    """Names the content: an ETag, a digest, or nothing where the key does. Of a row of a large
    file ``<digest of the file>:<number in it>``."""
    file: Path


class _Rows:
    """Rows by key, by content, and by the large file that they came from."""

    def __init__(self) -> None:
        self.by_key: dict[tuple[str, str], KnownRow] = {}
        """By key and token: files that differ in their suffixes only may have the same key."""
        self.by_token: dict[str, KnownRow] = {}
        self.by_shard: dict[str, dict[str, KnownRow]] = {}

    def add(self, row: KnownRow) -> None:
        self.by_key[row.key, row.token] = row
        if row.token:
            self.by_token[row.token] = row
        oid, colon, _ = row.token.partition(":")
        if colon:
            # By token: two revisions have the same row of a file under different keys.
            self.by_shard.setdefault(oid, {})[row.token] = row


class SourcePlace:
    """The folder of one revision of a source; ``open_place`` opens it."""

    def __init__(self, folder: Path, earlier: Sequence[Path] = ()) -> None:
        """``earlier``: folders of other revisions of the same source, the newest last."""
        self.folder = folder
        self.files = folder / FILES
        self.drafts = folder / _DRAFTS
        self.earlier_folders = tuple(earlier)
        self.stopping = threading.Event()
        """Set when no further row is waited for, so that downloads under way give up."""
        self._earlier = _Rows()
        self._known = _Rows()

    def prepare(self) -> None:
        """Make the folders, forget drafts of a fetch that was killed, and read what is there."""
        with writing(self.folder):
            shutil.rmtree(self.drafts, ignore_errors=True)
            for earlier in self.earlier_folders:  # nobody goes on with those
                _forget_unfinished(earlier)
            for each in (self.files, self.drafts):
                each.mkdir(parents=True, exist_ok=True)
        self._known = _rows_there([self.folder])
        self._earlier = _rows_there(self.earlier_folders)

    def known(self, key: str, token: str) -> KnownRow | None:
        """The row as an earlier fetch of this revision stored it; None where none did."""
        return self._known.by_key.get((key, token))

    def from_earlier(self, key: str, token: str) -> Path | None:
        """The picture of the row in an earlier revision, if that had the same content."""
        known = self._earlier
        row = known.by_token.get(token) if token else known.by_key.get((key, token))
        return None if row is None else row.file

    def has_content(self, token: str) -> bool:
        """Whether a picture of this content is there, in this revision or an earlier one."""
        return token in self._known.by_token or token in self._earlier.by_token

    def of_shard(self, oid: str) -> Mapping[str, KnownRow]:
        """Token → row of what came from one large file, in this revision."""
        return self._known.by_shard.get(oid, {})

    def of_earlier_shard(self, oid: str) -> Mapping[str, KnownRow]:
        """As ``of_shard``, in earlier revisions."""
        return self._earlier.by_shard.get(oid, {})

    def note(self, key: str, token: str, name: str) -> None:
        """Record that a row is stored. One thread calls it."""
        line = json.dumps([key, token, name], ensure_ascii=False)
        with writing(self.folder), (self.folder / _ROWS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._known.add(KnownRow(key=key, token=token, file=self.files / name))

    def check_space(self, needed_bytes: int = 0) -> None:
        """Raise DiskError where the disk has too little space left for what comes."""
        with writing(self.folder):
            free = shutil.disk_usage(self.folder).free
        if free < needed_bytes + _KEPT_FREE_BYTES:
            raise DiskError(
                "disk_full",
                f"{self.folder} needs {_gib(needed_bytes + _KEPT_FREE_BYTES)}, of which one stays "
                f"free, and its disk has {_gib(free)}: free some, name another folder in "
                "REVERIE_HOME, or take fewer rows with source_max_rows",
            )

    def complete(self) -> Complete | None:
        """What is there, if everything is; files that were deleted since make it incomplete."""
        try:
            read = json.loads((self.folder / _COMPLETE).read_bytes())
            found = Complete(
                pictures=int(read["pictures"]),
                left_out=int(read["left_out"]),
                notes=tuple(str(each) for each in read["notes"]),
            )
            is_current = read["version"] == _VERSION
        except (OSError, ValueError, KeyError, TypeError):
            return None
        rows = _rows_of(self.folder)
        is_whole = len(rows) >= found.pictures and all(row.file.is_file() for row in rows.values())
        return found if is_current and is_whole else None

    def finish(self, complete: Complete) -> None:
        """Record that everything is there."""
        with writing(self.folder):
            _forget_unfinished(self.folder)
            text = json.dumps({"version": _VERSION, **asdict(complete)}, indent=1)
            replace_text(self.folder / _COMPLETE, text + "\n")


@contextlib.contextmanager
def open_place(
    root: Path, name: str, description: Mapping[str, Any], revision: str, reporter: Reporter
) -> Iterator[SourcePlace]:
    """The folder of a revision of a source; only one process at a time has it.

    Args:
        root: holds the folders of all sources.
        name: of the source, for people.
        description: what is fetched, without secrets; equal ones share files.
        revision: of the content.
        reporter: can stop the waiting.
    """
    folder = _folder_of(root, name, description)
    own = folder / hashlib.sha256(revision.encode()).hexdigest()[:16]
    with writing(folder):
        own.mkdir(parents=True, exist_ok=True)
        with locked_folder(folder, reporter, other="another process that is fetching into"):
            yield SourcePlace(own, [other for other in _by_age(folder) if other != own])


def newest_complete(
    root: Path, name: str, description: Mapping[str, Any]
) -> tuple[SourcePlace, Complete] | None:
    """The newest complete revision of a source, for a machine that cannot ask for the newest."""
    for each in reversed(_by_age(_folder_of(root, name, description))):
        place = SourcePlace(each)
        if (complete := place.complete()) is not None:
            return place, complete
    return None


def _folder_of(root: Path, name: str, description: Mapping[str, Any]) -> Path:
    plain = _NOT_PLAIN.sub("-", name)[:60].strip("-.")
    return root / f"{plain}-{digest_of(dict(description))[:12]}"


def _forget_unfinished(folder: Path) -> None:
    for name in _ON_THE_WAY:
        shutil.rmtree(folder / name, ignore_errors=True)


def _by_age(folder: Path) -> list[Path]:
    """The revisions in a folder, the newest last."""
    try:
        found = [each for each in folder.iterdir() if each.is_dir()]
        return sorted(found, key=lambda each: each.stat().st_mtime_ns)
    except OSError:
        return []


def _rows_there(folders: Sequence[Path]) -> _Rows:
    """The rows of all these folders whose files are there."""
    rows = _Rows()
    for folder in folders:
        for row in _rows_of(folder).values():
            if row.file.is_file():
                rows.add(row)
    return rows


def _rows_of(folder: Path) -> dict[str, KnownRow]:
    """Name of a file → what is recorded of it; a line that a kill left half is none."""
    rows: dict[str, KnownRow] = {}
    with contextlib.suppress(OSError), (folder / _ROWS).open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                match json.loads(line):
                    case [str(key), str(token), str(name)]:
                        rows[name] = KnownRow(key=key, token=token, file=folder / FILES / name)
    return rows


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
