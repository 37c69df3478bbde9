"""Data of runs in samples whose contents do not matter, and the order of its entries."""

from typing import Any

from services.trainer.feed_order import FeedOrder
from tests.unit.config_examples import import_small
from trainer_core.data.index import Caption, DataIndex, Encoding, Entry, Sample
from trainer_core.data.orders import sampler_of
from trainer_core.data.sampler import Sampler


def index_of(num_samples: int, *, num_held_out: int = 0) -> DataIndex:
    """An entry for the latents of each sample, and then one text for all; contents do not matter.

    The last samples are held out.
    """
    encoding = Encoding(kind="text", encoder={})
    contents = [Caption(text=f"{n}") for n in range(num_samples + 1)]
    return DataIndex(
        samples=tuple(
            Sample(
                backend="photos",
                path=f"{n}.png",
                held_out=n >= num_samples - num_held_out,
                width_px=64,
                height_px=64,
                repeats=0,
                latents=n,
                texts=(num_samples,),
            )
            for n in range(num_samples)
        ),
        encodings=(encoding,),
        entries=tuple(
            Entry(digest=encoding.digest_of(each), encoding=0, content=each) for each in contents
        ),
        prompts={"": num_samples},
    )


def sampler_in(index: DataIndex, **options: Any) -> Sampler:
    """Of a run of 10 steps with batches of one; ``options``: of its data backend."""
    photos = [{"id": "photos", "caption_strategy": "filename", **options}]
    plan = import_small({"train_batch_size": 1, "seed": 7}, backends=photos).plan
    return sampler_of(plan.identity, index)


def order_of(index: DataIndex, *, per_step: int = 1, sampler: Sampler | None = None) -> FeedOrder:
    sampler = sampler or sampler_in(index)
    return FeedOrder(index, sampler, micro_batches_per_step=per_step)


def latents_at(index: DataIndex, step: int) -> str:
    """Digest of the latents that the step after ``step`` steps needs."""
    (position,) = sampler_in(index).micro_batch(step).samples
    return index.entries[index.samples[position].latents].digest
