"""In the training process's place: reads micro-batches in the order of the sampler.

A thread reads two ahead, as ``trainer_core.engine.feed`` does.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Final

import torch

from benchmarks.cache.content import made
from benchmarks.cache.objects import ours
from benchmarks.cache.order import sampler
from benchmarks.cache.steps import Batch, arguments, take
from trainer_core.data.entries import EntryFolder
from trainer_core.data.entry_files import wanted_folder
from trainer_core.data.index import DataIndex
from trainer_core.data.sampler import Sampler

_AHEAD: Final = 2


def main() -> None:
    parser = arguments()
    parser.add_argument("--report", type=int, required=True, help="file descriptor for the steps")
    args = parser.parse_args()
    content = made(args.data, args.width)
    index = ours(content, args.records).index
    wanted = wanted_folder(args.folder)
    wanted.mkdir(exist_ok=True)
    entries = EntryFolder(
        args.folder, are_checked=True, while_waiting=lambda digest: (wanted / digest).touch()
    )
    opened_s = time.monotonic()

    def report(step: int) -> None:
        os.write(args.report, f"{step}\n".encode())

    report(args.from_step)
    batches = _ahead(_batches(index, sampler(index), entries, args.from_step))
    take(batches, content, args, opened_s=opened_s, done=report)
    # The thread still reads. Python would end it within torch's code, which aborts the process.
    os._exit(0)


def _batches(index: DataIndex, order: Sampler, entries: EntryFolder, first: int) -> Iterator[Batch]:
    for i in count(first):
        batch = order.micro_batch(i)
        sample = index.samples[batch.samples[0]]
        tensors: dict[str, torch.Tensor] = {}
        for entry in (sample.texts[batch.captions[0]], sample.latents):
            tensors |= entries.read(index.entries[entry].digest, index.kind_of(entry))
        yield list(batch.samples), tensors


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    ready: queue.Queue[Batch | Exception] = queue.Queue(_AHEAD)

    def fill() -> None:
        try:
            for batch in batches:
                ready.put(batch)
        except Exception as error:  # noqa: BLE001 - raised where the batch is taken
            ready.put(error)

    threading.Thread(target=fill, name="feed", daemon=True).start()
    while True:
        item = ready.get()
        if isinstance(item, Exception):
            raise item
        yield item


if __name__ == "__main__":
    main()
