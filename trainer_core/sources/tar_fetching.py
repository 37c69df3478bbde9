"""Fetches the pictures of tar files, one file after the other."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.source_types import PictureSource, TarSource
from trainer_core.data.folder import some_of
from trainer_core.in_words import counted
from trainer_core.progress import Reporter
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.places import Complete, SourcePlace, newest_complete, open_place
from trainer_core.sources.rows import Tally
from trainer_core.sources.shards import OpenShard, Shard, ShardReader, store_shards
from trainer_core.sources.surroundings import Surroundings, described, finished
from trainer_core.sources.tar_places import Findable, FoundTars, find_tars, read_index
from trainer_core.sources.tars import TarRules, open_tar, shard_keys, shard_of


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
    name, facts = f"tars-{PurePosixPath(place.source).name}", described(source)
    try:
        found = find_tars(place, around, wants_captions=source.wants_captions)
    except UnreachableError:
        known = newest_complete(around.root, name, facts)
        complete = None if known is None else known.complete()
        if known is None or complete is None:
            raise
        reporter.log(f"{backend}: the tar files cannot be reached; what was fetched before is used")
        return known, complete
    shards = [_shard(tar, found) for tar in found.tars]
    revision = digest_of([[[each.name, each.oid] for each in shards], [*sorted(found.faults)]])
    with open_place(around.root, name, facts, revision, reporter) as own:
        if (complete := own.complete()) is not None:
            return own, complete
        own.prepare()
        reader = _reader(f"fetching {backend}", source, found, own, reporter)
        for fault in found.faults.values():
            reader.tally.leave_out(fault)
        faults = store_shards(shards, reader)
        _check_faults([*found.faults.values(), *faults], len(shards) + len(found.faults))
        return own, finished(own, reader.tally, _notes(source, place, found))


def _shard(tar: Findable, found: FoundTars) -> Shard:
    index = found.indexes.get(tar.name)
    token = tar.token if index is None else f"{tar.token}\0{index.token}"
    return shard_of(tar.name, token, tar.size_bytes)


def _reader(
    stage: str, source: PictureSource, found: FoundTars, own: SourcePlace, reporter: Reporter
) -> ShardReader:
    place = source.place
    assert isinstance(place, TarSource)
    tars = {tar.name: tar for tar in found.tars}
    keys = shard_keys(tars)
    rules = TarRules(
        has_first_dots=place.has_first_dots,
        are_whole_texts=place.are_whole_texts,
        wants_captions=source.wants_captions,
        max_file_bytes=min(source.max_file_bytes, place.max_file_bytes or source.max_file_bytes),
    )

    def read(shard: Shard, file: Path, _before: int) -> OpenShard:
        index = found.indexes.get(shard.name)
        captions: Mapping[str, Any] = {}
        if index is not None:
            captions = read_index(index, own, reporter)
        return open_tar(shard, file, keys[shard.name], rules, captions)

    return ShardReader(
        place=own,
        reporter=reporter,
        tally=Tally(),
        stage=stage,
        max_file_bytes=source.max_file_bytes,
        fetch=lambda shard: tars[shard.name].have(own, reporter),
        read=read,
        key_of=lambda _, key: key,
        end=source.max_rows,
    )


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
