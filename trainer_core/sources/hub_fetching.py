"""Fetches a split of a dataset of the Hub, whatever the layout of its files."""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, assert_never

from trainer_core.config.simpletuner.source_types import HubSource, PictureSource, RowFilter
from trainer_core.progress import Reporter
from trainer_core.sources.captions import captions_of_row
from trainer_core.sources.csv_list import download
from trainer_core.sources.errors import RowError, SourceError
from trainer_core.sources.hub import Commit, card_of, files_of, obtain, picture_rows
from trainer_core.sources.hub_layout import Rows, SplitFiles, files_of_split, rows_in
from trainer_core.sources.limits import check_rows, cut_note
from trainer_core.sources.parquet_rows import (
    columns_to_read,
    is_taken,
    open_parquet,
    picture_in,
    rows_of_file,
)
from trainer_core.sources.places import SourcePlace
from trainer_core.sources.rows import Row, Tally, refuse, store_rows, suffix_in
from trainer_core.sources.shards import OpenShard, Shard, ShardReader, ShardSplit, store_shards
from trainer_core.sources.tars import TarRules, open_tar, shard_keys, shard_of
from trainer_core.web.fetching import FetchLimits
from trainer_core.web.public_addresses import Network

_USUAL_IMAGE: Final = "image"
_USUAL_COLUMNS: Final = ("caption",)
"""Names where none are given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSplit:
    """A split whose files are pictures."""

    files: SplitFiles
    """With the pictures that are taken."""
    num_files: int
    """Also those that are not taken."""


def open_split(
    commit: Commit,
    source: PictureSource,
    hub: HubSource,
    folder: Path,
    reporter: Reporter,
    *,
    allowed: Sequence[Network],
    stopping: threading.Event,
) -> PictureSplit | ShardSplit:
    """What a split of a commit is made of.

    Args:
        commit: of the dataset.
        source: says what is wanted of its rows.
        hub: says which rows.
        folder: for files that are fetched on the way.
        reporter: can stop a long download.
        allowed: networks that addresses in rows may lead to although they are not public.
        stopping: gives up downloads under way when it is set.

    Raises SourceError where the dataset has no such split, or its layout is not known.
    """
    files = files_of(commit)
    card = card_of(commit, files, folder)
    rows = rows_in(hub.split)
    split = files_of_split(files, card, hub.config, rows.split)
    end = _end_of(rows, source)
    if split.kind == "pictures":
        kept = split.files[rows.first : end]
        check_rows(len(kept))
        return PictureSplit(files=replace(split, files=kept), num_files=len(split.files))
    by_path = {file.path: file for file in split.files}

    def fetch(shard: Shard) -> Path:
        return obtain(commit, by_path[shard.name], folder, reporter)

    if split.kind == "tar":
        return _tar_split(split, _tar_rules(source, hub), fetch, rows.first, end)
    total = _rows_in_card(card, hub.config, rows.split)
    return ShardSplit(
        shards=tuple(Shard(name=f.path, oid=f.oid, size_bytes=f.size_bytes) for f in split.files),
        fetch=fetch,
        read=functools.partial(
            _read_parquet,
            source=source,
            hub=hub,
            split=rows.split,
            stopping=stopping,
            allowed=allowed,
        ),
        key_of=lambda number, _: _key(rows.split, number),
        first=rows.first,
        end=end,
        total=total if end is None else min(total or end, end),
    )


def store_split(
    commit: Commit,
    source: PictureSource,
    hub: HubSource,
    place: SourcePlace,
    reporter: Reporter,
    *,
    stage: str,
    allowed: Sequence[Network],
) -> tuple[Tally, tuple[str, ...]]:
    """Store the pictures of a split; returns what became of its rows, and notes on them.

    Raises SourceError where the dataset has no such split, or its layout is not known.
    """
    folder, tally = place.folder / "hub", Tally()
    split = open_split(
        commit, source, hub, folder, reporter, allowed=allowed, stopping=place.stopping
    )
    match split:
        case PictureSplit(files=files, num_files=num_files):
            store_rows(
                picture_rows(commit, files, source, hub, folder),
                len(files.files),
                place,
                reporter,
                tally,
                stage=stage,
                max_file_bytes=source.max_file_bytes,
            )
            return tally, cut_note(num_files, len(files.files)) if source.max_rows else ()
        case ShardSplit():
            reader = ShardReader(
                place=place,
                reporter=reporter,
                tally=tally,
                stage=stage,
                max_file_bytes=source.max_file_bytes,
            )
            store_shards(split, reader)
            return tally, ()
        case _:
            assert_never(split)


def _tar_rules(source: PictureSource, hub: HubSource) -> TarRules:
    """How the tar files of a split are read; raises SourceError."""
    if hub.rows != RowFilter():
        raise SourceError("it is made of tar files, which huggingface.filter_func does not filter")
    return TarRules(
        has_first_dots=True,
        are_whole_texts=False,
        wants_captions=source.wants_captions,
        max_file_bytes=source.max_file_bytes,
        columns=None if hub.captions.columns == _USUAL_COLUMNS else hub.captions,
        image=None if hub.image_column == _USUAL_IMAGE else hub.image_column.lower(),
    )


def _tar_split(
    split: SplitFiles,
    rules: TarRules,
    fetch: Callable[[Shard], Path],
    first: int,
    end: int | None,
) -> ShardSplit:
    """A split of tar files, read as WebDataset has them."""
    keys = shard_keys(file.path for file in split.files)

    def read(shard: Shard, file: Path, _before: int) -> OpenShard:
        return open_tar(shard, file, keys[shard.name], rules, {})

    return ShardSplit(
        shards=tuple(shard_of(f.path, f.oid, f.size_bytes) for f in split.files),
        fetch=fetch,
        read=read,
        key_of=lambda _, key: key,
        first=first,
        end=end,
        total=None,
    )


def _end_of(rows: Rows, source: PictureSource) -> int | None:
    ends = [] if rows.end is None else [rows.end]
    if source.max_rows is not None:
        ends.append(rows.first + source.max_rows)
    return min(ends) if ends else None


def _rows_in_card(card: Mapping[str, Any], config: str | None, split: str) -> int | None:
    """How many rows a split has, as the card says; None where it does not."""
    infos = card.get("dataset_info")
    for info in infos if isinstance(infos, list) else [infos]:
        if not isinstance(info, dict) or (config and info.get("config_name") != config):
            continue
        splits = info.get("splits")
        for each in splits if isinstance(splits, list) else ():
            if isinstance(each, dict) and each.get("name") == split:
                number = each.get("num_examples")
                return number if isinstance(number, int) and number > 0 else None
    return None


def _read_parquet(
    shard: Shard,
    file: Path,
    before: int,
    *,
    source: PictureSource,
    hub: HubSource,
    split: str,
    stopping: threading.Event,
    allowed: Sequence[Network],
) -> OpenShard:
    opened = open_parquet(file)
    known = [field.name for field in opened.schema_arrow]
    image = hub.image_column
    if image not in known and image == _USUAL_IMAGE:  # a single column of pictures is it, too
        pictures = [f.name for f in opened.schema_arrow if _holds_pictures(f.type)]
        image = pictures[0] if len(pictures) == 1 else image
    captions = hub.captions if source.wants_captions else None
    columns = columns_to_read(known, image, captions, hub.rows)

    def rows() -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(rows_of_file(opened, columns)):
            if is_taken(row, hub.rows):
                yield number, _row(row, number)

    def _row(row: Mapping[str, Any], number: int) -> Row:
        label = f"{split} row {before + number}"
        try:
            content, name = picture_in(row, image)
            write = functools.partial(
                _write_content, content, source=source, stopping=stopping, allowed=allowed
            )
        except RowError as error:
            name, write = "", functools.partial(refuse, str(error))
        return Row(
            key=_key(split, before + number),
            token=f"{shard.oid}:{number}",
            suffix=suffix_in(name.split("?")[0]),
            label=label,
            captions=None if captions is None else captions_of_row(row, captions),
            write=write,
        )

    return OpenShard(num_rows=opened.metadata.num_rows, rows=rows())


def _key(split: str, number: int) -> str:
    return f"{split}/{number:08d}"


def _holds_pictures(type_: Any) -> bool:
    names = [type_.field(n).name for n in range(getattr(type_, "num_fields", 0) or 0)]
    return {"bytes", "path"} <= set(names)


def _write_content(
    content: bytes | str,
    to: Path,
    *,
    source: PictureSource,
    stopping: threading.Event,
    allowed: Sequence[Network],
) -> None:
    if isinstance(content, str):
        limits = FetchLimits(max_bytes=source.max_file_bytes)
        download(content, to, limits=limits, allowed=allowed, stopping=stopping)
    elif len(content) > source.max_file_bytes:
        raise RowError(f"{len(content):,} bytes, more than source_max_file_mb allows")
    else:
        to.write_bytes(content)
