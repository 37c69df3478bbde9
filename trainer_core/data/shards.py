"""Cache shards: files in the object store, each with several entries, and what a builder makes.

A shard is named by the digests of its entries. It only carries them: which entries share a shard
follows from what was missing when a run was admitted, and nothing else depends on it. Imports no
torch.
"""

from collections.abc import Collection, Container, Iterator
from typing import Final, Literal, Self

from pydantic import JsonValue

from trainer_core.config.plan.frozen import Frozen, Many, digest_of
from trainer_core.data.index import Caption, DataIndex, Encoding, Entry, EntryKind, Picture

_MOST_PIXELS: Final = 32 << 20
"""Of the images of a shard. Latents of a million pixels are 2 MB, so it has 64 MB."""
_MOST_IMAGES: Final = 64
_MOST_CAPTIONS: Final = 7
"""33 MiB each, so a shard has 231 MiB."""


class ShardSpec(Frozen):
    """What a builder encodes into one shard."""

    version: Literal[2] = 2
    kind: EntryKind
    encoder: dict[str, JsonValue]
    """As in ``Encoding``."""
    entries: Many[Picture] | Many[Caption]

    def digests(self) -> tuple[str, ...]:
        """The digest of each entry."""
        encoding = Encoding(kind=self.kind, encoder=self.encoder)
        return tuple(encoding.digest_of(content) for content in self.entries)

    def without(self, digests: Container[str]) -> Self:
        """The same without these entries."""
        named = zip(self.digests(), self.entries, strict=True)
        rest = [content for digest, content in named if digest not in digests]
        return self.model_validate(self.model_dump() | {"entries": rest})

    def digest(self) -> str:
        """The name of the shard, unless entries were taken out of it."""
        return digest_of([*sorted(self.digests())])

    def units(self) -> float:
        """What its encoding time is proportional to: millions of pixels, or captions."""
        return sum(map(units_of, self.entries))


def units_of(content: Picture | Caption) -> float:
    """What the encoding time of an entry is proportional to: as ``ShardSpec.units``."""
    if isinstance(content, Caption):
        return 1.0
    return content.geometry.width_px * content.geometry.height_px / 1e6


def shards_of(index: DataIndex, missing: Collection[str]) -> Iterator[ShardSpec]:
    """Shards that have all missing entries of an index, each once.

    Entries of different backends are not mixed: a dataset may be deleted, and its shards with it.
    """
    backends = _backends_of(index)
    together: dict[tuple[int, tuple[str, ...]], list[Entry]] = {}
    for position, entry in enumerate(index.entries):
        if entry.digest in missing:
            key = entry.encoding, tuple(sorted(backends.get(position, ())))
            together.setdefault(key, []).append(entry)
    for (position, _), entries in sorted(together.items(), key=lambda item: item[0]):
        encoding = index.encodings[position]
        for group in _groups(sorted(entries, key=lambda entry: entry.digest)):
            contents = tuple(entry.content for entry in group)
            yield ShardSpec.model_validate(
                {"kind": encoding.kind, "encoder": encoding.encoder, "entries": contents}
            )


def _backends_of(index: DataIndex) -> dict[int, set[str]]:
    """Position of each entry → the backends that use it; prompts have none."""
    found: dict[int, set[str]] = {}
    for sample in index.samples:
        for position in sample.entries():
            found.setdefault(position, set()).add(sample.backend)
    return found


def _groups(entries: Collection[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    pixels = 0
    for entry in entries:
        content = entry.content
        size = 0
        most = _MOST_CAPTIONS
        if isinstance(content, Picture):
            size = content.geometry.width_px * content.geometry.height_px
            most = _MOST_IMAGES
        if group and (len(group) == most or pixels + size > _MOST_PIXELS):
            yield group
            group, pixels = [], 0
        group.append(entry)
        pixels += size
    if group:
        yield group
