"""Checkpoints whose tensors several processes hold in parts; threads stand for the processes."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.ranks import CheckpointRanks
from trainer_core.checkpoint.state_files import Place
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    TrainedTensors,
    write_checkpoint,
    write_part,
)

T = TypeVar("T")


def on_ranks(count: int, call: Callable[[CheckpointRanks], T]) -> list[T]:
    """What each rank's call returns; the first error of a rank is raised."""
    told: list[bytes] = [b""] * count
    barrier = threading.Barrier(count)

    def call_one(rank: int) -> T:
        def exchange(body: bytes) -> list[bytes]:
            told[rank] = body
            barrier.wait()
            found = list(told)
            barrier.wait()
            return found

        try:
            return call(CheckpointRanks(rank=rank, count=count, exchange=exchange))
        except threading.BrokenBarrierError:
            raise
        except BaseException:
            barrier.abort()  # as a launcher that ends the other processes
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(call_one, rank) for rank in range(count)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def write_parted(
    folder: Path,
    run: CheckpointIdentity,
    tensors: Sequence[Mapping[str, torch.Tensor]],
    parts: Sequence[Mapping[str, Place]],
    step: int = 4,
) -> Path:
    """Write a checkpoint; of each rank: its tensors by name in the file, and which are parts."""

    def write(ranks: CheckpointRanks) -> Path | None:
        trained = TrainedTensors(
            parameters={},
            optimizer_state=tensors[ranks.rank],
            ema={},
            parts=parts[ranks.rank],
            is_sharded=True,
        )
        if ranks.rank > 0:
            write_part(folder, step, trained, ranks)
            return None
        facts = CheckpointFacts(step=step, cursor=2 * step, run=run, scalars={})
        return write_checkpoint(folder, facts, trained, ranks=ranks).path

    path = on_ranks(len(tensors), write)[0]
    assert path is not None
    return path
