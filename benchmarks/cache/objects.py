"""The objects of a bucket that are not stored: each is a list of pieces of the content's file.

Shards of the project, tars of WebDataset, shards of mosaicml-streaming and SimpleTuner's files hold
the same records.
"""

import hashlib
import json
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cache.content import DISTINCT, KINDS, Content, Kind, Place, facts_of, sizes_of
from services.domain.ledger import CachedShard
from services.objects.keys import MANIFEST_NAME, shard_prefix
from trainer_core.data.buckets import Geometry
from trainer_core.data.index import Caption, DataIndex, Encoding, Entry, Picture, Sample
from trainer_core.data.shard_files import EntryPlace, TensorPlace, shard_header

TENANT: Final = f"ten_{13:032x}"
BACKEND: Final = "bench"
_SIDE_PX: Final = 512
_ENTRIES: Final[Mapping[Kind, int]] = {"text": 7, "latents": 64}
"""Of a shard, as ``trainer_core.data.shards`` groups them."""
_MDS_BYTES: Final = 1 << 26
"""The default of MDSWriter. It holds one bf16 record; 8-bit records get a shard each, too, because
a shard is fetched whole, and the next record of a random order is in another one."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of the content's file."""

    offset_bytes: int
    size_bytes: int


Piece = bytes | Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Ours:
    """A run's data as the service has it."""

    index: DataIndex
    shards: tuple[CachedShard, ...]
    objects: Mapping[str, tuple[Piece, ...]]
    """By key."""


def size_of(pieces: Sequence[Piece]) -> int:
    return sum(len(each) if isinstance(each, bytes) else each.size_bytes for each in pieces)


def ours(content: Content, records: int) -> Ours:
    """Shards and index of so many records, with a caption and a picture each."""
    entries: dict[Kind, list[Entry]] = {kind: [] for kind in KINDS}
    encodings = [Encoding(kind=kind, encoder={"width": content.width}) for kind in KINDS]
    sides = dict.fromkeys(("resize_w", "resize_h", "width_px", "height_px"), _SIDE_PX)
    geometry = Geometry(**sides, crop_x=0, crop_y=0)
    for n in range(records):
        sha256 = hashlib.sha256(f"picture {n}".encode()).hexdigest()
        contents: tuple[Caption | Picture, ...] = (
            Caption(text=f"caption {n}"),
            Picture(path=f"{n}.png", sha256=sha256, geometry=geometry),
        )
        for position, (kind, each) in enumerate(zip(KINDS, contents, strict=True)):
            digest = encodings[position].digest_of(each)
            entries[kind].append(Entry(digest=digest, encoding=position, content=each))
    index = DataIndex(
        samples=tuple(
            Sample(
                backend=BACKEND,
                path=f"{n}.png",
                held_out=False,
                width_px=_SIDE_PX,
                height_px=_SIDE_PX,
                repeats=0,
                latents=records + n,
                texts=(n,),
            )
            for n in range(records)
        ),
        encodings=tuple(encodings),
        entries=(*entries["text"], *entries["latents"]),
        prompts={},
    )
    shards: list[CachedShard] = []
    objects: dict[str, tuple[Piece, ...]] = {}
    for kind in KINDS:
        of_digest = {
            each.digest: content.places(kind)[n % DISTINCT[kind]]
            for n, each in enumerate(entries[kind])
        }
        in_order = sorted(of_digest)
        for first in range(0, records, _ENTRIES[kind]):
            group = {d: of_digest[d] for d in in_order[first : first + _ENTRIES[kind]]}
            shards.append(_add_shard(objects, content, kind, group))
    return Ours(index=index, shards=tuple(shards), objects=objects)


def _add_shard(
    objects: dict[str, tuple[Piece, ...]], content: Content, kind: Kind, group: Mapping[str, Place]
) -> CachedShard:
    facts = facts_of(kind, content.width)
    header = shard_header(
        dict.fromkeys(group, facts), {digest: place.sha256 for digest, place in group.items()}
    )
    places, end = {}, len(header)
    for digest, place in group.items():
        places[digest] = EntryPlace(
            offset_bytes=end,
            size_bytes=place.size_bytes,
            sha256=place.sha256,
            tensors=tuple(
                TensorPlace(name=name, dtype=dtype, shape=shape)
                for name, (dtype, shape) in facts.items()
            ),
        )
        end += place.size_bytes
    digest = hashlib.sha256("".join(group).encode()).hexdigest()
    # A whole shard is never read, so its name may be the digest of its header alone.
    header_sha256 = hashlib.sha256(header).hexdigest()
    name = f"{header_sha256}.safetensors"
    manifest = json.dumps(
        {
            "version": 2,
            "kind": kind,
            "digest": digest,
            "files": {name: {"size_bytes": end, "sha256": header_sha256}},
            "entries": {each: place.model_dump(mode="json") for each, place in places.items()},
        },
        sort_keys=True,
    ).encode()
    prefix = shard_prefix(TENANT, digest)
    objects[prefix + MANIFEST_NAME] = (manifest,)
    objects[prefix + name] = (header, *(_range(place) for place in group.values()))
    return CachedShard(
        digest=digest,
        kind=kind,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        size_bytes=end,
        entries={each: place.size_bytes for each, place in places.items()},
    )


def tar_keys(content: Content, records: int) -> list[str]:
    return [f"tar/{n:05d}.tar" for n in range(content.tars_of(records))]


def tars(content: Content, records: int) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """WebDataset's: a file for each tensor, named by record and tensor."""
    each = content.records_a_tar
    for number, key in enumerate(tar_keys(content, records)):
        pieces: list[Piece] = []
        for n in range(number * each, min(records, (number + 1) * each)):
            for name, part in _parts(content, n):
                info = tarfile.TarInfo(f"{n:06d}.{name}")
                info.size = part.size_bytes
                pieces += (info.tobuf(tarfile.USTAR_FORMAT), part)
                pieces.append(bytes(-part.size_bytes % tarfile.BLOCKSIZE))
        yield key, (*pieces, bytes(2 * tarfile.BLOCKSIZE))


def mds(content: Content, records: int) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """mosaicml-streaming's: a column of bytes for each tensor, and one with the record's number."""
    sizes = {name: size for kind in KINDS for name, size in sizes_of(kind, content.width).items()}
    columns = sorted([*sizes, "record"])
    described = {
        "column_encodings": ["int" if each == "record" else "bytes" for each in columns],
        "column_names": columns,
        "column_sizes": [8 if each == "record" else None for each in columns],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": _MDS_BYTES,
        "version": 2,
    }
    config = json.dumps(described, sort_keys=True).encode()
    lengths = struct.pack(f"<{len(sizes)}I", *(sizes[each] for each in columns if each in sizes))
    sample_bytes = len(lengths) + sum(sizes.values()) + 8
    shards = []
    for number in range(records):
        start = 4 * 3 + len(config)
        parts = dict(_parts(content, number))
        pieces = (
            struct.pack("<3I", 1, start, start + sample_bytes) + config + lengths,
            *(struct.pack("<q", number) if each == "record" else parts[each] for each in columns),
        )
        name = f"shard.{number:05d}.mds"
        raw = {"basename": name, "bytes": size_of(pieces), "hashes": {}}
        shards.append({**described, "raw_data": raw, "samples": 1, "zip_data": None})
        yield f"mds/{name}", pieces
    yield "mds/index.json", (json.dumps({"version": 2, "shards": shards}).encode(),)


def zipped(content: Content, records: int) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """SimpleTuner's: a file for each caption, and one for each picture."""
    for n in range(records):
        for kind in KINDS:
            yield zipped_key(kind, n), (_range(content.zipped(kind)[n % DISTINCT[kind]]),)


def zipped_key(kind: Kind, record: int) -> str:
    return f"gz/{kind}/{record:06d}.pt"


def _parts(content: Content, record: int) -> Iterator[tuple[str, Range]]:
    """Name and bytes of each tensor of a record."""
    for kind in KINDS:
        offset = content.places(kind)[record % DISTINCT[kind]].offset_bytes
        for name, size in sizes_of(kind, content.width).items():
            yield name, Range(offset, size)
            offset += size


def _range(place: Place) -> Range:
    return Range(place.offset_bytes, place.size_bytes)
