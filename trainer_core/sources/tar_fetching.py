"""Fetches the pictures of tar files, one file after the other."""

import threading
from pathlib import Path

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.source_types import PictureSource, TarSource
from trainer_core.data.folder import some_of
from trainer_core.in_words import counted
from trainer_core.progress import Reporter
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.places import Complete, SourcePlace, newest_complete, open_place
from trainer_core.sources.rows import Tally
from trainer_core.sources.shards import OpenShard, Shard, ShardReader, ShardSplit, store_shards
from trainer_core.sources.surroundings import Surroundings, described, finished
from trainer_core.sources.tar_names import folder_name
from trainer_core.sources.tar_places import Findable, FoundTars, OnTheWay, find_tars, read_index
from trainer_core.sources.tars import TarRules, missing_tar, open_tar, shard_keys, shard_of


def fetch_tars(
    backend: str,
    source: PictureSource,
    place: TarSource,
    around: Surroundings,
    reporter: Reporter,
) -> tuple[SourcePlace, Complete]:
    """Fetch what is not there yet; the same again goes on after an interruption.

    A tar file that is not there, or not whole, is named, and the others are used; more than half of
    them are an error.

    Raises SourceError, and what ``store_rows`` raises.
    """
    name, facts = folder_name(place.source), described(source)
    try:
        found = find_tars(place, around, wants_captions=source.wants_captions)
    except UnreachableError:
        known = newest_complete(around.root, name, facts)
        if known is None:
            raise
        reporter.log(f"{backend}: the tar files cannot be reached; what was fetched before is used")
        return known
    with open_place(around.root, name, facts, revision_of(found), reporter) as own:
        if (complete := own.complete()) is not None:
            return own, complete
        own.prepare()
        way = OnTheWay(folder=own.folder / "tars", stopping=threading.Event(), reporter=reporter)
        split = open_tars(found, source, place, way)
        reader = ShardReader(
            place=own,
            reporter=reporter,
            tally=Tally(),
            stage=f"fetching {backend}",
            max_file_bytes=source.max_file_bytes,
        )
        _check_faults(store_shards(split, reader), len(split.shards))
        return own, finished(own, reader.tally, _notes(source, place, found))


def revision_of(found: FoundTars) -> str:
    """Names the content of all tar files and of their indexes."""
    shards = [_shard(tar, found) for tar in found.tars]
    return digest_of([[[each.name, each.oid] for each in shards], [*sorted(found.faults)]])


def open_tars(
    found: FoundTars, source: PictureSource, place: TarSource, way: OnTheWay
) -> ShardSplit:
    """Tar files as files with many rows; of one that is not there, a row that says so.

    Args:
        found: them.
        source: says what is wanted of their pictures.
        place: says how they are read.
        way: keeps one of them at a time.
    """
    tars = {tar.name: tar for tar in found.tars}
    keys = shard_keys(tars)
    rules = TarRules(
        has_first_dots=place.has_first_dots,
        are_whole_texts=place.are_whole_texts,
        wants_captions=source.wants_captions,
        max_file_bytes=min(source.max_file_bytes, place.max_file_bytes or source.max_file_bytes),
    )

    def fetch(shard: Shard) -> Path:
        tar = tars.get(shard.name)
        return way.folder / "missing" if tar is None else tar.have(way)

    def read(shard: Shard, file: Path, _before: int) -> OpenShard:
        if (fault := found.faults.get(shard.name)) is not None:
            return missing_tar(shard, fault)
        index = found.indexes.get(shard.name)
        is_named = place.metadata is not None
        captions = {} if index is None else read_index(index, way, is_named=is_named)
        return open_tar(shard, file, keys[shard.name], rules, captions)

    return ShardSplit(
        shards=(
            *(_shard(tar, found) for tar in found.tars),
            *(shard_of(name, "missing", 0) for name in found.faults),
        ),
        fetch=fetch,
        read=read,
        key_of=lambda _, key: key,
        first=0,
        end=source.max_rows,
        total=None,
    )


def _shard(tar: Findable, found: FoundTars) -> Shard:
    index = found.indexes.get(tar.name)
    token = tar.token if index is None else f"{tar.token}\0{index.token}"
    return shard_of(tar.name, token, tar.size_bytes)


def _check_faults(faults: list[str], number: int) -> None:
    """Raise SourceError where most tar files cannot be used: then the place is wrong."""
    if 2 * len(faults) > number:
        shown = "; ".join(faults[:3]) + ("; …" if len(faults) > 3 else "")
        raise SourceError(
            f"{len(faults):,} of {counted(number, 'tar file')} cannot be used: {shown}"
        )


def _notes(source: PictureSource, place: TarSource, found: FoundTars) -> list[str]:
    """What is not there of the indexes that were named, as a sentence."""
    if place.metadata is None or not source.wants_captions:
        return []
    missing = [tar.name for tar in found.tars if tar.name not in found.indexes]
    if not missing:
        return []
    return [
        f"metadata has no JSON file for {counted(len(missing), 'tar file')}: {some_of(missing)}"
    ]
