"""The file of a cache shard: safetensors, the tensors of one entry after those of another.

A tensor is named ``<digest of the entry>/<name>``; the metadata has the SHA-256 of each entry's
bytes. So an entry is one range of the file, which can be read and checked without the rest.
Imports no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trainer_core.config.plan.frozen import Frozen, Many
from trainer_core.weights.entries import BadHeaderError, new_header, read_entries

_SEPARATOR: Final = "/"


class TensorPlace(Frozen):
    """One tensor of an entry; its bytes follow those of the one before."""

    name: str
    dtype: str
    """As in ``weights.entries``."""
    shape: Many[int]


class EntryPlace(Frozen):
    """Where an entry is in the file of a shard."""

    offset_bytes: int
    size_bytes: int
    sha256: str
    """Of these bytes."""
    tensors: Many[TensorPlace]

    def facts(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The tensors as ``entry_files.TensorFacts``."""
        return {each.name: (each.dtype, tuple(each.shape)) for each in self.tensors}


def shard_header(
    entries: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]], sha256s: Mapping[str, str]
) -> bytes:
    """The first bytes of a shard's file; the entries' bytes follow in the same order."""
    tensors = {
        f"{digest}{_SEPARATOR}{name}": facts
        for digest, entry in entries.items()
        for name, facts in entry.items()
    }
    return new_header(tensors, sha256s)


def read_places(path: Path) -> dict[str, EntryPlace]:
    """Digest of each entry in the file of a shard → its place.

    Raises BadHeaderError where the file cannot be read, or is no shard.
    """
    header = read_entries(path, name=path.name)
    grouped: dict[str, list[str]] = {}
    for key in sorted(header.entries, key=lambda key: header.entries[key].offset_bytes):
        grouped.setdefault(key.partition(_SEPARATOR)[0], []).append(key)
    if grouped.keys() != header.metadata.keys():
        raise BadHeaderError(f"{path.name} is no shard: its entries and digests differ")
    places = {}
    for digest, keys in grouped.items():
        parts = [header.entries[key] for key in keys]
        places[digest] = EntryPlace(
            offset_bytes=parts[0].offset_bytes,
            size_bytes=sum(part.size_bytes for part in parts),
            sha256=header.metadata[digest],
            tensors=tuple(
                TensorPlace(name=key.partition(_SEPARATOR)[2], dtype=part.dtype, shape=part.shape)
                for key, part in zip(keys, parts, strict=True)
            ),
        )
        end = parts[-1].offset_bytes + parts[-1].size_bytes
        if end != places[digest].offset_bytes + places[digest].size_bytes:
            raise BadHeaderError(f"{path.name} is no shard: entry {digest} is not in one piece")
    return places
