"""Shards are fetched ahead of the step, within the size limit, and a requested shard comes next."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.domain.ledger import CachedShard
from services.trainer.failures import AttemptFailedError
from services.trainer.feeder import Feeder, FeedOrder
from tests.support.waiting import wait_until
from trainer_core.data.index import (
    DataIndex,
    Sample,
    ShardDescription,
    ShardRef,
    ShardSpec,
    TextEntry,
)
from trainer_core.data.sampler import Sampler
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

SIZE_BYTES = 100


def index_of(num_samples: int) -> DataIndex:
    """One latents shard for each sample, then one text shard for all; their rows do not matter."""
    kinds = ["latents"] * num_samples + ["text"]
    specs = [
        ShardSpec(kind="text", encoder={}, entries=(TextEntry(text=f"{kind} {n}"),))
        for n, kind in enumerate(kinds)
    ]
    text = ShardRef(shard=num_samples, row=0)
    return DataIndex(
        samples=tuple(
            Sample(
                backend="photos",
                path=f"{n}.png",
                held_out=False,
                width_px=64,
                height_px=64,
                repeats=0,
                latents=ShardRef(shard=n, row=0),
                texts=(text,),
            )
            for n in range(num_samples)
        ),
        shards=tuple(ShardDescription(digest=s.digest(), kind="text", spec=s) for s in specs),
        prompts={"": text},
    )


class Source:
    """Writes a shard file; records the order of the requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, shard: CachedShard, dest: Path) -> None:
        self.asked.append(shard.digest)
        dest.write_bytes(b"x" * shard.size_bytes)


def feeder_of(
    index: DataIndex,
    folder: Path,
    fetch: Callable[[CachedShard, Path], None],
    limit_bytes: int,
    **disk: Any,
) -> tuple[Feeder, FeedOrder]:
    order = FeedOrder(index=index, sampler=Sampler(index, 7, 1), micro_batches_per_step=1)
    shards = [
        CachedShard(digest=s.digest, kind=s.kind, manifest_sha256="", size_bytes=SIZE_BYTES)
        for s in index.shards
    ]
    feeder = Feeder(
        order, shards, folder, limit_bytes=limit_bytes, from_step=0, fetch=fetch, **disk
    )
    return feeder, order


def held(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


def test_all_shards_are_fetched_in_sampler_order_where_they_fit(tmp_path: Path) -> None:
    index, source = index_of(12), Source()
    feeder, order = feeder_of(index, tmp_path, source, limit_bytes=1 << 20)
    with feeder:
        wait_until(lambda: len(held(tmp_path)) == 13, what="all shards", deadline_s=10)
    first = [
        index.samples[order.sampler.micro_batch(i).samples[0]].latents.shard for i in range(12)
    ]
    assert source.asked[0] == index.shards[12].digest  # the prompts
    assert source.asked[1:] == [index.shards[shard].digest for shard in first]


def test_masks_come_with_their_images(tmp_path: Path) -> None:
    plain, source = index_of(6), Source()
    masked = tuple(
        sample.model_copy(update={"latents": ShardRef(shard=n, row=0), "mask": mask})
        for n, sample in enumerate(plain.samples[:3])
        for mask in [ShardRef(shard=n + 3, row=0)]
    )
    index = plain.model_copy(update={"samples": masked})
    feeder, order = feeder_of(index, tmp_path, source, limit_bytes=1 << 20)
    with feeder:
        wait_until(lambda: len(held(tmp_path)) == 7, what="all shards", deadline_s=10)
    first = [order.sampler.micro_batch(i).samples[0] for i in range(3)]
    pairs = [n for sample in first for n in (sample, sample + 3)]
    assert source.asked[1:] == [index.shards[n].digest for n in pairs]


def test_the_folder_stays_within_its_limit_and_follows_the_step(tmp_path: Path) -> None:
    index, source = index_of(40), Source()
    feeder, order = feeder_of(index, tmp_path, source, limit_bytes=5 * SIZE_BYTES)
    with feeder:
        for step in range(0, 40, 2):
            feeder.reached(step)
            needed = index.samples[order.sampler.micro_batch(step).samples[0]].latents.shard
            wait_until(
                lambda: index.shards[needed].digest in held(tmp_path),  # noqa: B023
                what=f"step {step}",
                deadline_s=10,
            )
            assert len(held(tmp_path)) <= 5


def test_shards_make_room_for_what_else_the_attempt_stores(tmp_path: Path) -> None:
    others: list[int] = []
    feeder, _ = feeder_of(
        index_of(40),
        tmp_path,
        Source(),
        limit_bytes=9 * SIZE_BYTES,
        other_bytes=lambda: sum(others),
    )
    with feeder:
        wait_until(lambda: len(held(tmp_path)) == 9, what="a full folder", deadline_s=10)
        others.append(6 * SIZE_BYTES)
        feeder.reached(1)
        wait_until(lambda: len(held(tmp_path)) == 3, what="room for it", deadline_s=10)


def test_a_shard_waits_for_the_upload_that_will_free_its_room(tmp_path: Path) -> None:
    others, uploading = [9 * SIZE_BYTES], [True]
    feeder, _ = feeder_of(
        index_of(40),
        tmp_path,
        Source(),
        limit_bytes=9 * SIZE_BYTES,
        other_bytes=lambda: sum(others),
        is_uploading=lambda: bool(uploading),
    )
    with feeder:
        time.sleep(0.3)  # several shards come in this time, if it does not wait
        assert not held(tmp_path)
        uploading.clear()  # nothing will become free: training must not wait forever
        wait_until(lambda: len(held(tmp_path)) == 1, what="one shard", deadline_s=10)
        others.clear()
        wait_until(lambda: len(held(tmp_path)) == 9, what="a full folder", deadline_s=10)


def test_a_requested_shard_is_fetched_next(tmp_path: Path) -> None:
    index, source = index_of(40), Source()
    feeder, _ = feeder_of(index, tmp_path, source, limit_bytes=5 * SIZE_BYTES)
    with feeder:
        wait_until(lambda: len(held(tmp_path)) == 5, what="a full folder", deadline_s=10)
        missing = next(s.digest for s in index.shards if s.digest not in held(tmp_path))
        (tmp_path / f"{missing}.wanted").touch()
        wait_until(lambda: missing in held(tmp_path), what="the wanted shard", deadline_s=10)
        wait_until(
            lambda: not list(tmp_path.glob("*.wanted")), what="an answered request", deadline_s=10
        )
        assert len(held(tmp_path)) <= 5


def test_a_shard_that_cannot_be_fetched_is_reported(tmp_path: Path) -> None:
    failure = Failure(code="shard_corrupt", category=Category.INFRA, message="m", retryable=True)

    def fetch(shard: CachedShard, dest: Path) -> None:
        raise AttemptFailedError(failure)

    feeder, _ = feeder_of(index_of(2), tmp_path, fetch, limit_bytes=1 << 20)
    with feeder:
        wait_until(lambda: feeder.failure == failure, what="the failure", deadline_s=10)


def test_an_error_inside_the_feeder_is_reported_too(tmp_path: Path) -> None:
    feeder, _ = feeder_of(index_of(2), tmp_path / "not there", Source(), limit_bytes=1 << 20)
    with feeder:
        wait_until(lambda: feeder.failure is not None, what="the failure", deadline_s=10)


def test_nothing_is_waited_for_once_each_request_was_served(tmp_path: Path) -> None:
    index, source = index_of(8), Source()
    feeder, _ = feeder_of(index, tmp_path, source, limit_bytes=SIZE_BYTES)
    last, last_but_one = (index.shards[n].digest for n in (7, 6))
    (tmp_path / f"{last}.wanted").touch()
    assert feeder.is_waited_for
    with feeder:
        wait_until(lambda: not feeder.is_waited_for, what="the first shard", deadline_s=10)
        (tmp_path / f"{last_but_one}.wanted").touch()
        wait_until(lambda: held(tmp_path) == {last_but_one}, what="the second", deadline_s=10)
        # The first one has made room for it, and no step has been taken since.
        assert not feeder.is_waited_for
