"""The same records as other libraries read them; runs in an environment of its own.

gzip       SimpleTuner's files: gzip of what torch saves, one a caption and one a picture. A
           thread prefetches ten batches (its option dataloader_prefetch, and its default).
webdataset tars of 1 GB, two workers, the shards shuffled, and eight records in a buffer.
streaming  mosaicml-streaming: shards of at most 64 MB, its default order, two workers, and the
           same limit of the folder as ours.
"""

import gzip
import io
import os
import queue
import sys
import threading
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any, Final

import boto3
import torch
from botocore.config import Config

from benchmarks.cache.content import BUCKET, KINDS, Content, Kind, made, sizes_of, tensors_of
from benchmarks.cache.steps import Batch, arguments, mark, shuffled, take

_WORKERS: Final = 2
_PREFETCHED: Final = 10
_SHUFFLED_TARS: Final = 100
_SHUFFLED_RECORDS: Final = 8


def main() -> None:
    parser = arguments()
    parser.add_argument("--peer", choices=sorted(_PEERS), required=True)
    args = parser.parse_args()
    content = made(args.data, args.width)
    # Tensors over bytes, which nobody writes to: the copy would cost the peers time.
    warnings.filterwarnings("ignore", "The given buffer is not writable")
    opened_s = time.monotonic()
    take(_PEERS[args.peer](args, content), content, args, opened_s=opened_s)
    mark("closed")
    sys.stdout.flush()
    os._exit(0)  # workers that still wait for their queue are not waited for


def _gzip(args: Namespace, _content: Content) -> Iterator[Batch]:
    # Its backend makes one client with 128 connections and reads whole objects.
    config = Config(max_pool_connections=128, s3={"addressing_style": "path"})
    client: Any = boto3.client(
        "s3", endpoint_url=args.endpoint, region_name="us-east-1", config=config
    )

    def load(kind: Kind, record: int) -> dict[str, torch.Tensor]:
        body = client.get_object(Bucket=BUCKET, Key=f"gz/{kind}/{record:06d}.pt")["Body"].read()
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            loaded: dict[str, torch.Tensor] = torch.load(
                io.BytesIO(file.read()), map_location="cpu", weights_only=True
            )
        return loaded

    ready: queue.Queue[Batch] = queue.Queue(_PREFETCHED)

    def prefetch() -> None:
        for record in shuffled(args.records)[args.from_step :]:
            ready.put(([record], {**load("latents", record), **load("text", record)}))

    threading.Thread(target=prefetch, daemon=True).start()
    while True:
        yield ready.get()


def _webdataset(args: Namespace, content: Content) -> Iterator[Batch]:
    import webdataset  # noqa: PLC0415 - each process needs one of the two

    tars = content.tars_of(args.records)
    url = f"{args.endpoint}/{BUCKET}/tar/{{00000..{tars - 1:05d}}}.tar"
    dataset = (
        webdataset.WebDataset(
            f"pipe:curl --silent --fail {url}",
            shardshuffle=_SHUFFLED_TARS,
            seed=13,
            nodesplitter=webdataset.split_by_node,
        )
        .shuffle(_SHUFFLED_RECORDS)
        .map(lambda sample: (int(sample["__key__"]), _tensors(content, sample)))
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=min(_WORKERS, tars))
    for record, tensors in loader:
        yield [int(record)], tensors


def _streaming(args: Namespace, content: Content) -> Iterator[Batch]:
    from streaming import StreamingDataLoader, StreamingDataset  # noqa: PLC0415 - as above

    os.environ["S3_ENDPOINT_URL"] = args.endpoint
    dataset = StreamingDataset(
        remote=f"s3://{BUCKET}/mds",
        local=str(args.folder / "mds"),
        cache_limit=args.limit_bytes,
        shuffle=True,
        shuffle_seed=13,
        batch_size=1,
    )
    loader = StreamingDataLoader(
        dataset,
        batch_size=1,
        num_workers=_WORKERS,
        collate_fn=lambda samples: ([samples[0]["record"]], _tensors(content, samples[0])),
    )
    if args.from_step:
        loader.load_state_dict(dataset.state_dict(num_samples=args.from_step, from_beginning=True))
    for numbers, tensors in loader:
        yield [int(each) for each in numbers], tensors


def _tensors(content: Content, parts: dict[str, bytes]) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for kind in KINDS
        for name, tensor in tensors_of(
            kind, content.width, {name: parts[name] for name in sizes_of(kind, content.width)}
        ).items()
    }


_PEERS: Final[dict[str, Callable[[Namespace, Content], Iterator[Batch]]]] = {
    "gzip": _gzip,
    "webdataset": _webdataset,
    "streaming": _streaming,
}


if __name__ == "__main__":
    main()
