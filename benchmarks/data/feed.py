"""Time the thread that builds batches, on small pictures: where a step on them takes a few ms.

    python -m benchmarks.data.feed [--folder DIR]

Writes cache entries as the painting model has them, with random content: 1,536 pictures of six
sizes, 64 a batch, captions dropped with 10 %. The line on stdout is JSON: processor time a sample
in the first epoch, which reads files, and in later ones; and of what no feed can leave out, which
is drawing the same normal numbers and copying the bytes of the batches once.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from benchmarks.trainer_matrix import environment
from tests.unit.config_examples import import_small
from trainer_core.config.plan import Identity
from trainer_core.data.buckets import Geometry
from trainer_core.data.entries import EntryFolder, encoded, write_entry
from trainer_core.data.entry_files import entry_name
from trainer_core.data.index import Caption, DataIndex, Encoding, Entry, Picture, Sample
from trainer_core.data.orders import sampler_of
from trainer_core.engine.batch import Batch, BatchMaker
from trainer_core.hidream.timestep_sampling import AutoShift
from trainer_core.painter.drawing import SIZES_PX
from trainer_core.painter.encoders import TOKENS, WIDTH
from trainer_core.painter.model import LATENT_CHANNELS, build_vae
from trainer_core.precision.compute import Compute

_PICTURES: Final = 1536
_BATCH: Final = 64
_LLAMA_LAYERS: Final = 2
_CELL_PX: Final = 8
_BACKEND: Final = "bench"
_KEPT_BYTES: Final = 1 << 30
_EPOCHS: Final = 7


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.feed", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the entries there, and use them again")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # the feed has one
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measured(args.folder)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-feed-") as folder:
        print(json.dumps(measured(Path(folder))))
    return 0


def measured(folder: Path) -> dict[str, Any]:
    """Processor µs a sample, in medians over the epochs."""
    index, identity = _index(), _identity()
    _write_entries(folder, index)
    cpu = Compute(device=torch.device("cpu"), weights=torch.bfloat16, is_autocast=False)
    entries = EntryFolder(folder, kept_bytes=_KEPT_BYTES)
    maker = BatchMaker(index, entries, identity, build_vae(), cpu, auto_shift=AutoShift())
    sampler = sampler_of(identity, index)

    epochs = [
        _epoch_us(lambda i: maker.training(sampler.micro_batch(i)).with_whole_text(), number)
        for number in range(_EPOCHS)
    ]
    (first_us, _), later = epochs[0], epochs[1:]
    later_us, least_us = ([each[which] for each in later] for which in (0, 1))
    return {
        "benchmark": "data.feed",
        "machine": environment(),
        "samples_per_epoch": _PICTURES,
        "batch": _BATCH,
        "first_epoch_us": round(first_us, 1),
        "later_epochs_us": round(median(later_us), 1),
        "later_epochs_range_us": [round(min(later_us), 1), round(max(later_us), 1)],
        "least_us": round(median(least_us), 1),
        "least_of_later": round(median(least_us) / median(later_us), 3),
        "samples_per_s": round(1e6 / median(later_us)),
    }


def _epoch_us(build: Callable[[int], Batch], epoch: int) -> tuple[float, float]:
    """µs a sample of building the batches of an epoch, and of what no feed can leave out.

    Processor time of this thread, because other work on the machine does not count in it.
    """
    own_s = least_s = 0.0
    per_epoch = _PICTURES // _BATCH
    for i in range(epoch * per_epoch, (epoch + 1) * per_epoch):
        started_s = time.thread_time()
        batch = build(i)
        built_s = time.thread_time()
        _least(batch)
        own_s += built_s - started_s
        least_s += time.thread_time() - built_s
    return own_s * 1e6 / _PICTURES, least_s * 1e6 / _PICTURES


def _least(batch: Batch) -> None:
    """Draw as many normal numbers as the batch took, and copy its bytes once."""
    generator = torch.Generator()
    rows = torch.empty(batch.noisy_BCHW.shape)
    for _ in ("posterior", "noise"):
        for slot, row in enumerate(torch.split(rows, 1)):
            row.normal_(generator=generator.manual_seed(slot))
    for tensor in batch.tensors():
        torch.empty_like(tensor).copy_(tensor)


def _identity() -> Identity:
    options = {"id": _BACKEND, "caption_strategy": "textfile", "minimum_image_size": 0}
    changes = {"micro_batch_size": _BATCH, "caption_dropout_probability": 0.1}
    return import_small(backends=[options]).plan.identity.model_copy(update=changes)


def _index() -> DataIndex:
    encodings = [Encoding(kind=kind, encoder={"of": "bench"}) for kind in ("latents", "text")]
    contents: list[Picture | Caption] = [Caption(text="")]
    samples = []
    for n in range(_PICTURES):
        width_px, height_px = SIZES_PX[n % len(SIZES_PX)]
        geometry = Geometry(
            resize_w=width_px,
            resize_h=height_px,
            width_px=width_px,
            height_px=height_px,
            crop_x=0,
            crop_y=0,
        )
        path = f"{n}.png"
        sample = Sample(
            backend=_BACKEND,
            path=path,
            held_out=False,
            width_px=width_px,
            height_px=height_px,
            repeats=0,
            latents=len(contents),
            texts=(len(contents) + 1,),
        )
        samples.append(sample)
        contents.append(Picture(path=path, sha256=f"{n:064x}", geometry=geometry))
        contents.append(Caption(text=f"picture {n}"))
    entries = []
    for content in contents:
        encoding = int(isinstance(content, Caption))
        digest = encodings[encoding].digest_of(content)
        entries.append(Entry(digest=digest, encoding=encoding, content=content))
    return DataIndex(
        samples=tuple(samples), encodings=tuple(encodings), entries=tuple(entries), prompts={"": 0}
    )


def _write_entries(folder: Path, index: DataIndex) -> None:
    """Those that are not there yet."""
    generator = torch.Generator().manual_seed(1)
    for number, entry in enumerate(index.entries):
        path = folder / entry_name(entry.digest)
        if not path.exists():
            tensors = _tensors(entry.content, generator)
            write_entry(path, encoded(index.kind_of(number), tensors))


def _tensors(content: Picture | Caption, generator: torch.Generator) -> dict[str, torch.Tensor]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    if isinstance(content, Picture):
        sides_px = content.geometry.height_px, content.geometry.width_px
        shape = LATENT_CHANNELS, *(side // _CELL_PX for side in sides_px)
        return {"mean": normal(*shape), "std": normal(*shape).abs()}
    text = {
        "t5": normal(TOKENS, WIDTH),
        "llama": normal(_LLAMA_LAYERS, TOKENS, WIDTH),
        "pooled": normal(2 * WIDTH),
    }
    return {name: tensor.bfloat16() for name, tensor in text.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
