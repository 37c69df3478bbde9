"""Which entries share a cache shard: those of one dataset, so that its shards go with it."""

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.shards import shards_of

PLAN = import_small(
    backends=[{"id": name, "caption_strategy": "textfile"} for name in ("one", "two")]
).plan


def index_of(**pictures: range) -> DataIndex:
    """Backend → its pictures, by number; each has a caption of its own."""
    items = [
        FileItem(
            backend=backend,
            path=f"{number}.png",
            sha256=f"{number:064x}",
            width_px=256,
            height_px=256,
            captions=(f"picture {number}",),
        )
        for backend, numbers in pictures.items()
        for number in numbers
    ]
    return build_index(PLAN, items, TINY_CONFIG)


def test_entries_of_two_datasets_are_in_different_shards() -> None:
    index = index_of(one=range(6), two=range(5, 10))
    users: dict[str, set[str]] = {}
    for sample in index.samples:
        for entry in sample.entries():
            users.setdefault(index.entries[entry].digest, set()).add(sample.backend)

    shards = list(shards_of(index, {entry.digest for entry in index.entries}))

    digests = [digest for shard in shards for digest in shard.digests()]
    assert sorted(digests) == sorted(entry.digest for entry in index.entries)
    found = set()
    for shard in shards:
        of_shard = {tuple(sorted(users.get(digest, ()))) for digest in shard.digests()}
        assert len(of_shard) == 1, "all of its entries are used by the same datasets"
        found.add((shard.kind, *of_shard.pop()))
    both = {("one",), ("two",), ("one", "two")}
    assert found == {(kind, *each) for kind in ("latents", "text") for each in both} | {("text",)}
