"""Fetches the pictures below a prefix of an S3 bucket, with their captions.

A revision is the listing: names, sizes and ETags. An object that changes while it is fetched has
another ETag than was listed; then the bucket is listed again, and what is the same is not fetched
twice.
"""

from collections.abc import Mapping
from typing import Final

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.source_types import BucketSource, PictureSource
from trainer_core.data.folder import some_of
from trainer_core.data.formats import CAPTION_SUFFIX, IMAGE_SUFFIXES
from trainer_core.in_words import counted
from trainer_core.progress import Reporter
from trainer_core.sources.bucket_client import Bucket, BucketObject
from trainer_core.sources.bucket_rows import (
    Listing,
    Work,
    reads_texts,
    rows_of_bucket,
    stem_of_path,
    token_of,
)
from trainer_core.sources.bucket_table import captions_in, find_table, key_of
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.limits import cut_note, limited
from trainer_core.sources.places import Complete, SourcePlace, newest_complete, open_place
from trainer_core.sources.rows import Tally, store_rows, suffix_in
from trainer_core.sources.surroundings import Surroundings, described, finished

_LISTINGS: Final = 3
_MAX_OBJECTS: Final = 4_000_000
_CHECK_EVERY: Final = 1000


def fetch_bucket(
    backend: str,
    source: PictureSource,
    place: BucketSource,
    around: Surroundings,
    reporter: Reporter,
) -> tuple[SourcePlace, Complete]:
    """Fetch what is not there yet; the same again goes on after an interruption.

    Raises SourceError where the bucket cannot be read, and what ``store_rows`` raises.
    """
    name, facts = f"{place.bucket}-{place.prefix}", described(source)
    with Bucket(place, allowed=around.allowed, takes_own_keys=around.takes_own_keys) as bucket:
        odd: Mapping[str, str] = {}
        for _ in range(_LISTINGS):
            try:
                table = find_table(bucket, source, around.folders)
                listing = list_pictures(bucket, reporter, own=key_of(table))
            except UnreachableError:
                known = newest_complete(around.root, name, facts)
                if known is None:
                    raise
                reporter.log(
                    f"{backend}: the bucket cannot be reached; what was fetched before is used"
                )
                return known
            revision = _revision(listing, source, "" if table is None else table.token)
            with open_place(around.root, name, facts, revision, reporter) as found:
                if (done := found.complete()) is not None:
                    return found, done
                found.prepare()
                work = Work(
                    bucket=bucket,
                    place=found,
                    source=source,
                    listing=listing,
                    named=None if table is None else captions_in(bucket, table, source, found),
                    odd=odd,
                )
                done = _store(backend, work, reporter)
                if done is not None:
                    return found, done
                odd = work.changed
            reporter.log(f"{backend}: objects changed while they were fetched; listing them again")
    raise SourceError(
        f"objects of bucket {place.bucket} change while they are fetched: wait until nothing is "
        "written there, then give the same command again"
    )


def list_pictures(bucket: Bucket, reporter: Reporter, *, own: str | None = None) -> Listing:
    """List the bucket's folder; raises SourceError where it has no picture.

    ``own``: key of what is read beside pictures, such as their table.
    """
    place = bucket.place
    pictures: dict[str, BucketObject] = {}
    captions: dict[str, BucketObject] = {}
    others: list[str] = []
    for number, each in enumerate(bucket.objects(place.prefix)):
        if number % _CHECK_EVERY == 0:
            reporter.check_control()
        if number >= _MAX_OBJECTS:
            raise SourceError(
                f"bucket {place.bucket} has more than {_MAX_OBJECTS:,} objects there: name a "
                "folder of it in aws_data_prefix"
            )
        path = each.key.removeprefix(place.prefix)
        is_hidden = any(part.startswith(".") for part in path.split("/"))
        if path.endswith("/") or is_hidden or each.key == own:  # with a slash it marks a folder
            continue
        suffix = suffix_in(path)
        if suffix in IMAGE_SUFFIXES:
            pictures[path] = each
        elif suffix == CAPTION_SUFFIX:
            captions[stem_of_path(path)] = each
        else:
            others.append(path)
    if not pictures:
        where = f"below {place.prefix} " if place.prefix else ""
        raise SourceError(
            f"bucket {place.bucket} has no picture {where}(aws_data_prefix), and "
            f"{counted(len(others) + len(captions), 'other object')}"
        )
    return Listing(pictures=pictures, captions=captions, others=others)


def _revision(listing: Listing, source: PictureSource, table: str) -> str:
    """Names what a fetch of this listing would give."""
    texts = listing.captions if reads_texts(source) else {}
    return digest_of(
        [
            [[path, token_of(each)] for path, each in listing.pictures.items()],
            [[path, token_of(each)] for path, each in texts.items()],
            table,
        ]
    )


def _store(backend: str, work: Work, reporter: Reporter) -> Complete | None:
    """Store the pictures of a listing; None where some were not as listed."""
    source, listing, place = work.source, work.listing, work.place
    kept = limited(listing.pictures, source)
    missing_bytes = sum(
        each.size_bytes
        for each in kept.values()
        if each.size_bytes <= source.max_file_bytes and not place.has_content(token_of(each))
    )
    place.check_space(missing_bytes)
    if missing_bytes:
        size = f"{missing_bytes / (1 << 20):,.1f} MiB"
        reporter.log(f"{backend}: fetching {size} from bucket {work.bucket.place.bucket}")
    tally = Tally()
    store_rows(
        rows_of_bucket(kept, work),
        len(kept),
        place,
        reporter,
        tally,
        stage=f"fetching {backend}",
        max_file_bytes=source.max_file_bytes,
    )
    if work.changed:
        return None
    notes = [*cut_note(len(listing.pictures), len(kept)), *_notes(listing, source)]
    return finished(place, tally, [*notes, *(work.named.notes() if work.named is not None else ())])


def _notes(listing: Listing, source: PictureSource) -> list[str]:
    """What of the listing is not fetched, each a sentence."""
    notes = []
    if listing.captions and source.table is None and not source.wants_captions:
        what = counted(len(listing.captions), "text file")
        notes.append(f"{what} not fetched, because caption_strategy is not textfile")
    if listing.others:
        what = counted(len(listing.others), "other object")
        notes.append(f"{what} not fetched: {some_of(listing.others)}")
    return notes
