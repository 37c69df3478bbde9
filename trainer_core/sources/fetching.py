"""Fetches what a backend's pictures come from into a folder of files, once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, assert_never

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.source_types import (
    MAX_ROWS,
    CsvSource,
    FolderSource,
    HubSource,
    PictureSource,
)
from trainer_core.data.folder import some_of
from trainer_core.in_words import counted
from trainer_core.paths import find_folder, is_file, places_of
from trainer_core.progress import Reporter
from trainer_core.sources.csv_list import read_list, rows_of_list
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.folder_table import pictures_in, rows_of_folder
from trainer_core.sources.hub import newest_commit
from trainer_core.sources.hub_fetching import store_split
from trainer_core.sources.limits import check_rows, cut_note
from trainer_core.sources.places import Complete, SourcePlace, newest_complete, open_place
from trainer_core.sources.rows import Tally, store_rows
from trainer_core.sources.tables import read_table
from trainer_core.web.public_addresses import Network


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Where sources are fetched to, and what they may reach."""

    root: Path
    """The folders of all sources."""
    folders: Sequence[Path]
    """A relative path of a file on this machine is tried from each of these."""
    allowed: Sequence[Network] = ()
    """Networks that addresses in lists may lead to although they are not public."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedSource:
    """A folder of pictures and captions."""

    folder: Path
    notes: tuple[str, ...]
    """What is not there and why, each a sentence that begins with the backend's id."""


def sources_in(home: Path) -> Path:
    """The folder of all sources; ``home``: of Reverie's own files."""
    return home / "sources"


def fetch_source(
    backend: str, source: PictureSource, around: Surroundings, reporter: Reporter
) -> FetchedSource:
    """Fetch what is not there yet; the same again goes on after an interruption.

    Args:
        backend: id of the backend, for messages.
        source: what to fetch.
        around: where to.
        reporter: shows the progress, and can stop the work.

    Raises:
        SourceError: nothing can be fetched; the message begins with the backend's id.
        DiskError: the disk is full or fails.
        StopRequestedError: what was fetched stays.
    """
    try:
        place, complete = _fetched(backend, source, around, reporter)
    except SourceError as error:
        raise SourceError(f"{backend}: {error.message}") from error
    notes = tuple(f"{backend}: {note}" for note in complete.notes)
    if complete.pictures == 0:
        raise SourceError(" ".join((f"{backend}: its source has no usable picture.", *notes)))
    return FetchedSource(folder=place.files, notes=notes)


def _fetched(
    backend: str, source: PictureSource, around: Surroundings, reporter: Reporter
) -> tuple[SourcePlace, Complete]:
    match source.place:
        case CsvSource():
            return _fetch_list(backend, source, source.place, around, reporter)
        case HubSource():
            return _fetch_dataset(backend, source, source.place, around, reporter)
        case FolderSource():
            return _fetch_captions(backend, source, source.place, around, reporter)
        case _:
            assert_never(source.place)


def _fetch_list(
    backend: str,
    source: PictureSource,
    place: CsvSource,
    around: Surroundings,
    reporter: Reporter,
) -> tuple[SourcePlace, Complete]:
    file = local_file(place.file, "csv_file", around.folders)
    listed = read_list(file, place)
    kept = limited(listed, source)
    with file.open("rb") as opened:
        revision = hashlib.file_digest(opened, "sha256").hexdigest()
    described = {**_described(source), "file": str(file)}
    with open_place(around.root, f"csv-{file.stem}", described, revision, reporter) as found:
        if (complete := found.complete()) is not None:
            return found, complete
        found.prepare()
        tally = Tally()
        store_rows(
            rows_of_list(kept, source, around.allowed, found.stopping),
            len(kept),
            found,
            reporter,
            tally,
            stage=f"fetching {backend}",
            max_file_bytes=source.max_file_bytes,
        )
        complete = finished(found, tally, cut_note(len(listed), len(kept)))
        return found, complete


def _fetch_dataset(
    backend: str, source: PictureSource, hub: HubSource, around: Surroundings, reporter: Reporter
) -> tuple[SourcePlace, Complete]:
    name, described = hub.dataset, _described(source)
    try:
        commit = newest_commit(hub)
    except UnreachableError:
        known = newest_complete(around.root, name, described)
        complete = None if known is None else known.complete()
        if known is None or complete is None:
            raise
        reporter.log(f"{backend}: the Hub cannot be reached; what was fetched before is used")
        return known, complete
    with open_place(around.root, name, described, commit.sha, reporter) as place:
        if (complete := place.complete()) is not None:
            return place, complete
        reporter.log(f"{backend}: fetching {name} at commit {commit.sha[:12]}")
        place.prepare()
        tally, notes = store_split(
            commit,
            source,
            hub,
            place,
            reporter,
            stage=f"fetching {backend}",
            allowed=around.allowed,
        )
        return place, finished(place, tally, notes)


def _fetch_captions(
    backend: str,
    source: PictureSource,
    place: FolderSource,
    around: Surroundings,
    reporter: Reporter,
) -> tuple[SourcePlace, Complete]:
    """Put the captions of a table beside links to the pictures of a folder."""
    table = source.table
    assert table is not None, backend
    folder = find_folder(place.folder, around.folders)
    if folder is None:
        tried = ", ".join(str(each)[:300] for each in places_of(place.folder, around.folders))
        raise SourceError(
            f"instance_data_dir names {place.folder[:200]}, which is not a folder in any of these "
            f"places: {tried}"
        )
    file = local_file(table.path, "parquet.path", (folder, *around.folders))
    pictures = pictures_in(folder)
    with file.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    described = {**_described(source), "folder": str(folder.absolute()), "file": str(file)}
    revision = digest_of([content, dict(pictures)])
    with open_place(around.root, f"table-{folder.name}", described, revision, reporter) as found:
        if (complete := found.complete()) is not None:
            return found, complete
        found.prepare()
        tally, missing = Tally(), list[str]()
        kept = limited(pictures, source)
        store_rows(
            rows_of_folder(folder, kept, table, read_table(file, table), missing),
            len(kept),
            found,
            reporter,
            tally,
            stage=f"captions of {backend}",
            max_file_bytes=source.max_file_bytes,
        )
        notes = list(cut_note(len(pictures), len(kept)))
        if missing:
            notes.append(
                f"{counted(len(missing), 'picture')} not in {file.name} have their names as "
                f"captions: {some_of(missing)}"
            )
        return found, finished(found, tally, notes)


def finished(place: SourcePlace, tally: Tally, extra: Sequence[str]) -> Complete:
    """Record that everything is there that can be."""
    complete = Complete(
        pictures=tally.pictures, left_out=tally.left_out, notes=(*tally.note(), *extra)
    )
    if complete.pictures:  # else the next try begins anew
        place.finish(complete)
    return complete


def limited(rows: Mapping[str, str], source: PictureSource) -> dict[str, str]:
    """The rows that are taken; raises SourceError where there are more than may be fetched."""
    if source.max_rows is None:
        check_rows(len(rows))
    most = source.max_rows or MAX_ROWS
    return dict(item for _, item in zip(range(most), rows.items(), strict=False))


def _described(source: PictureSource) -> dict[str, Any]:
    """What is fetched, without secrets, which are what no text of the place shows."""
    facts = asdict(source)
    for each in fields(source.place):
        if not each.repr:
            del facts["place"][each.name]
    return {"type": type(source.place).__name__, **facts}


def local_file(name: str, option: str, folders: Sequence[Path]) -> Path:
    """A file on this machine that an option names; raises SourceError, which lists the places."""
    places = places_of(name, folders)
    for place in places:
        if is_file(place):
            return place.absolute()
    tried = ", ".join(str(place)[:300] for place in places)
    raise SourceError(f"{option} names {name[:200]}, which is in none of these places: {tried}")
