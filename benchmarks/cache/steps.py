"""Takes batches as a training loop does, in the process that is measured, and notes the waits.

At each mark the process writes a JSON line to standard output and goes on when it reads a line, so
that the driver can note its figures in between.
"""

import json
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.cache.content import Content, check_record

Batch = tuple[list[int], Mapping[str, torch.Tensor]]
"""Numbers of the records, and the tensors of the first of them."""


def arguments() -> ArgumentParser:
    """What every measured process is told."""
    parser = ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of the content's file")
    parser.add_argument("--folder", type=Path, required=True, help="scratch space")
    parser.add_argument("--limit-bytes", type=int, required=True, help="of the scratch space")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--width", required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True, help="steps before the measured ones")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--step-s", type=float, default=0.0, help="what a step takes")
    parser.add_argument("--from-step", type=int, default=0)
    return parser


def mark(name: str, **facts: Any) -> None:
    print(json.dumps({"mark": name, **facts}), flush=True)
    sys.stdin.readline()


def take(
    batches: Iterator[Batch],
    content: Content,
    args: Namespace,
    *,
    opened_s: float,
    done: Callable[[int], None] = lambda _: None,
) -> None:
    """Take ``warm`` and then ``steps`` batches; marks ``first``, ``warm`` and ``end``.

    Args:
        opened_s: by ``time.monotonic``, when reading began.
        done: called with the number of each step that is done.
    """
    ids: list[int] = []
    waits_s: list[float] = []
    started_s = 0.0
    for step in range(args.warm + args.steps):
        if step == args.warm:
            mark("warm")
            started_s = time.monotonic()
        asked_s = time.monotonic()
        records, tensors = next(batches)
        waits_s.append(time.monotonic() - asked_s)
        if step == 0:
            mark("first", since_opened_s=time.monotonic() - opened_s)
        check_record(content, records[0], tensors)
        ids += records
        del tensors
        time.sleep(args.step_s)
        done(args.from_step + step + 1)
    took_s = time.monotonic() - started_s
    mark("end", took_s=took_s, ids=ids, waits_s=waits_s[args.warm :])


def shuffled(records: int) -> list[int]:
    """A random order of the records, for a reader that is told which to read."""
    order = list(range(records))
    random.Random(13).shuffle(order)  # noqa: S311 - an order, no secret
    return order
