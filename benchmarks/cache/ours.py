"""The service's path: a trainer's feeder fills the folder of a training process from the store.

The feeder, the order, the fetcher and the store are those of ``services``; the lease of the run
always holds. The process ends when the folder is as full as it gets, and then says what of it the
training has not used.
"""

import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.cache.content import BUCKET, made
from benchmarks.cache.objects import TENANT, ours
from benchmarks.cache.order import sampler
from benchmarks.cache.steps import arguments, mark
from services.domain.ledger import CachedShard, Claim
from services.logs.setup import configure
from services.objects.port import AttemptObjects
from services.objects.s3_store import S3Store
from services.trainer.context import HeldRun
from services.trainer.entry_fetcher import EntryFetcher
from services.trainer.feed_order import FeedOrder
from services.trainer.feeder import Feeder
from trainer_core.data.entry_files import entry_name
from trainer_core.data.index import DataIndex

_IDLE_S = 1.5
"""The feeder looks at its folder twice a second."""


def main() -> None:
    args = arguments().parse_args()
    configure("bench", "json")
    data = ours(made(args.data, args.width), args.records)
    store = S3Store(BUCKET, endpoint=args.endpoint, region=None)
    feed(args, data.index, data.shards, store, sys.argv[1:])


def feed(
    args: Namespace,
    index: DataIndex,
    shards: tuple[CachedShard, ...],
    store: AttemptObjects,
    reader_args: list[str],
) -> None:
    """Feed a reader until it ends; marks ``closed``."""
    run_order = sampler(index)
    order = FeedOrder(index, run_order, micro_batches_per_step=1)
    fetcher = _Noting(EntryFetcher(_held(store, shards), args.folder))
    steps, report = os.pipe()
    reader = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cache.reader", *reader_args, f"--report={report}"],
        pass_fds=(report,),
    )
    os.close(report)
    lines = os.fdopen(steps)
    # In a run the feeder has the time in which the base model is loaded. Here it begins with the
    # reader, so that the time to the first batch is that of the data.
    next(lines)
    used_s: dict[str, float] = {}
    with Feeder(
        order, fetcher, args.folder, limit_bytes=args.limit_bytes, from_step=args.from_step
    ) as feeder:
        for line in lines:
            feeder.reached(int(line))
            for sample in run_order.micro_batch(int(line) - 1).samples:
                for entry in index.samples[sample].entries():
                    used_s[index.entries[entry].digest] = time.monotonic()
        if reader.wait() != 0 or feeder.failure is not None:
            raise SystemExit(f"the reader ended with {reader.returncode}: {feeder.failure}")
        _wait_until_idle(args.folder)
    unused = [
        digest
        for digest, fetched_s in fetcher.fetched_s.items()
        if fetched_s > used_s.get(digest, 0.0) and (args.folder / entry_name(digest)).exists()
    ]
    mark("closed", unused_bytes=sum(map(fetcher.size_bytes, unused)))


class _Noting:
    """A fetcher that notes when it fetched each entry last."""

    def __init__(self, fetcher: EntryFetcher) -> None:
        self._fetcher = fetcher
        self.size_bytes = fetcher.size_bytes
        self.fetched_s: dict[str, float] = {}

    def fetch(self, digest: str) -> None:
        self._fetcher.fetch(digest)
        self.fetched_s[digest] = time.monotonic()


def _held(store: AttemptObjects, shards: tuple[CachedShard, ...]) -> HeldRun:
    """The parts of a held run that the fetcher reads."""
    claim = Claim(
        run_id=f"run_{13:032x}",
        tenant_id=TENANT,
        fence=1,
        plan={},
        data_index={},
        base_model="",
        shards=shards,
        checkpoint=None,
    )
    held = SimpleNamespace(context=SimpleNamespace(objects=store), claim=claim, lease=_Lease())
    return cast(HeldRun, held)


class _Lease:
    """Always holds; a store that does not answer ends the benchmark."""

    def until_answered(self, call: Callable[[], Any], *, doing: str) -> Any:
        del doing
        return call()


def _wait_until_idle(folder: Path) -> None:
    """Until the folder's content has not changed for a while."""
    before: set[str] = set()
    since_s = time.monotonic()
    while time.monotonic() - since_s < _IDLE_S:
        names = {path.name for path in folder.iterdir()}
        if names != before or any(name.endswith(".tmp") for name in names):
            before, since_s = names, time.monotonic()
        threading.Event().wait(0.05)


if __name__ == "__main__":
    main()
