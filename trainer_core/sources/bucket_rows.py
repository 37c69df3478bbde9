"""The rows of a bucket's folder: each picture, and the captions beside it or in a table."""

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.data.captions import MAX_CAPTION_BYTES, decode_caption
from trainer_core.errors import BadCaptionError
from trainer_core.sources.bucket_client import Bucket, BucketObject
from trainer_core.sources.errors import ChangedError, RowError
from trainer_core.sources.places import SourcePlace
from trainer_core.sources.rows import Row, own_key, refuse, safe_key, suffix_in
from trainer_core.sources.tables import NamedCaptions
from trainer_core.sources.texts import KeptTexts

_THREADS: Final = 8
_AT_ONCE: Final = 64
_MD5: Final = re.compile(r'"[0-9a-f]{32}(?:-\d{1,5})?"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What is below a prefix, by paths relative to it."""

    pictures: Mapping[str, BucketObject]
    captions: Mapping[str, BucketObject]
    """Path without its suffix → caption file."""
    others: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is fetched from where to where."""

    bucket: Bucket
    place: SourcePlace
    source: PictureSource
    listing: Listing
    named: NamedCaptions | None
    """Captions of a table."""
    odd: Mapping[str, str] = field(default_factory=dict)
    """``changed`` of the listing before: what is listed in the same way again has not changed."""
    changed: dict[str, str] = field(default_factory=dict)
    """Key → token of the objects that were not as listed."""

    def not_as_listed(self, found: BucketObject, error: ChangedError) -> RowError:
        """Note that an object has changed, or say that the service gives others than it lists."""
        token = token_of(found)
        if self.odd.get(found.key) == token:
            return RowError("the service lists it otherwise than it gives it")
        self.changed[found.key] = token
        return error


def token_of(found: BucketObject) -> str:
    """Names the content of an object.

    An MD5 is one for all objects with these bytes, so that a renamed one is not fetched again;
    anything else counts for this object only.
    """
    if _MD5.fullmatch(found.etag):
        plain = found.etag.strip('"')
        return f"{plain}-{found.size_bytes}"
    facts = "\0".join((found.key, found.etag, str(found.size_bytes), found.modified))
    return hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def reads_texts(source: PictureSource) -> bool:
    """Whether captions are in text files beside the pictures."""
    return source.wants_captions and source.table is None


def stem_of_path(path: str) -> str:
    """A path without its suffix."""
    return path[: len(path) - len(suffix_in(path))]


def rows_of_bucket(pictures: Mapping[str, BucketObject], work: Work) -> Iterator[Row]:
    """The rows of pictures, whose captions are fetched a few ahead."""
    taken: set[str] = set()
    texts = KeptTexts(work.place.folder, work.place.earlier_folders)
    left = iter(pictures.items())
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := dict(islice(left, _AT_ONCE)):
            beside = _captions_beside(some, work)
            bad = _fetch_texts(beside.values(), texts, work, pool)
            for path, found in some.items():
                text = beside.get(path)
                captions = _captions(path, text, texts, work)
                suffix = suffix_in(path)
                key = own_key(
                    safe_key(path), path, taken, suffix=suffix if captions is None else ""
                )
                row = Row(
                    key=key,
                    token=token_of(found),
                    suffix=suffix,
                    label=path,
                    captions=captions,
                    write=partial(_write, found, work),
                )
                if text is not None and (why := bad.get(text.key)) is not None:
                    # Without a token, so that no picture of before is taken for it.
                    row = replace(row, token="", write=partial(refuse, why))
                yield row


def _captions_beside(pictures: Mapping[str, BucketObject], work: Work) -> dict[str, BucketObject]:
    """Path of a picture → the caption file beside it."""
    if not reads_texts(work.source):
        return {}
    found = {path: work.listing.captions.get(stem_of_path(path)) for path in pictures}
    return {path: text for path, text in found.items() if text is not None}


def _captions(
    path: str, text: BucketObject | None, texts: KeptTexts, work: Work
) -> tuple[str, ...] | str | None:
    """The captions of a picture, as of a ``Row``."""
    if work.named is not None:
        return work.named.of(path)
    if not work.source.wants_captions:
        return None
    return (None if text is None else texts.get(token_of(text))) or ()


def _write(found: BucketObject, work: Work, to: Path) -> None:
    if found.size_bytes > work.source.max_file_bytes:
        raise RowError(f"{found.size_bytes:,} bytes, more than source_max_file_mb allows")
    try:
        work.bucket.read_to(found, to, work.place.stopping)
    except ChangedError as error:
        raise work.not_as_listed(found, error) from error


def _fetch_texts(
    wanted: Collection[BucketObject], texts: KeptTexts, work: Work, pool: ThreadPoolExecutor
) -> dict[str, str]:
    """Fetch the texts that are not there; key → what is wrong with it, of those that are none."""
    new = {each.key: each for each in wanted if texts.get(token_of(each)) is None}
    bad: dict[str, str] = {}
    read = partial(_read_text, work)
    for each, text in zip(new.values(), pool.map(read, new.values()), strict=True):
        if isinstance(text, str):
            texts.add(token_of(each), text)
        else:
            bad[each.key] = text.message if isinstance(text, BadCaptionError) else str(text)
    return bad


def _read_text(work: Work, found: BucketObject) -> str | RowError | BadCaptionError:
    """The text of a caption file, or why there is none."""
    # A name of its own: several threads may read texts of the same content.
    draft = work.place.drafts / f"{os.urandom(8).hex()}.txt"
    name = found.key.removeprefix(work.bucket.place.prefix)
    try:
        if found.size_bytes > MAX_CAPTION_BYTES:
            raise BadCaptionError(f"{name}: {found.size_bytes:,} bytes are too many for captions")
        work.bucket.read_to(found, draft, work.place.stopping)
        return decode_caption(draft.read_bytes(), name=name)
    except ChangedError as error:
        return work.not_as_listed(found, error)
    except (RowError, BadCaptionError) as error:
        return error
    finally:
        draft.unlink(missing_ok=True)
