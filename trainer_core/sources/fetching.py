"""Fetches what a backend's pictures come from into a folder of files, once."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.source_types import (
    BucketSource,
    CsvSource,
    FolderSource,
    HubSource,
    PictureSource,
    TarSource,
)
from trainer_core.digests import sha256_of
from trainer_core.paths import find_folder, places_of
from trainer_core.progress import Reporter
from trainer_core.sources.bucket import fetch_bucket
from trainer_core.sources.csv_list import read_list, rows_of_list
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.folder_table import pictures_in, rows_of_folder
from trainer_core.sources.hub import newest_commit
from trainer_core.sources.hub_fetching import store_split
from trainer_core.sources.limits import cut_note, limited
from trainer_core.sources.places import Complete, SourcePlace, newest_complete, open_place
from trainer_core.sources.rows import Tally, store_rows
from trainer_core.sources.surroundings import Surroundings, described, finished, local_file
from trainer_core.sources.tables import NamedCaptions, read_table
from trainer_core.sources.tar_fetching import fetch_tars


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
        raise type(error)(f"{backend}: {error.message}") from error
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
        case BucketSource():
            return fetch_bucket(backend, source, source.place, around, reporter)
        case TarSource():
            return fetch_tars(backend, source, source.place, around, reporter)
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
    facts = {**described(source), "file": str(file)}
    with open_place(around.root, f"csv-{file.stem}", facts, sha256_of(file), reporter) as found:
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
    name, facts = hub.dataset, described(source)
    try:
        commit = newest_commit(hub.dataset, hub.revision, hub.token)
    except UnreachableError:
        known = newest_complete(around.root, name, facts)
        if known is None:
            raise
        reporter.log(f"{backend}: the Hub cannot be reached; what was fetched before is used")
        return known
    with open_place(around.root, name, facts, commit.sha, reporter) as place:
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
    facts = {**described(source), "folder": str(folder.absolute()), "file": str(file)}
    revision = digest_of([sha256_of(file), dict(pictures)])
    with open_place(around.root, f"table-{folder.name}", facts, revision, reporter) as found:
        if (complete := found.complete()) is not None:
            return found, complete
        found.prepare()
        tally, kept = Tally(), limited(pictures, source)
        named = NamedCaptions(name=file.name, table=table, captions=read_table(file, table))
        store_rows(
            rows_of_folder(folder, kept, named),
            len(kept),
            found,
            reporter,
            tally,
            stage=f"captions of {backend}",
            max_file_bytes=source.max_file_bytes,
        )
        notes = [*cut_note(len(pictures), len(kept)), *named.notes()]
        return found, finished(found, tally, notes)
