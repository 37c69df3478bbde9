"""The order of samples that a plan has, and the digest of the data that belongs to the order."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import assert_never

from trainer_core.config.plan import Identity
from trainer_core.data.digest_order import Bucket, DigestOrder, Source
from trainer_core.data.index import DataIndex
from trainer_core.data.length import backend_micro_batches, timeline_of, uses_of
from trainer_core.data.mixing import Share
from trainer_core.data.path_digest import path_digest
from trainer_core.data.path_order import PathOrder
from trainer_core.data.sampler import Sampler


def sampler_of(identity: Identity, index: DataIndex) -> Sampler:
    """Raises ValueError if the index has no sample to train on at step 1."""
    uses = uses_of(index)
    timeline = timeline_of(identity, uses)
    match identity.sample_order:
        case 1:
            return PathOrder(
                index,
                seed=identity.seed,
                micro_batch_size=identity.micro_batch_size,
                data_digest=path_digest(index),
                timeline=timeline,
            )
        case 2:
            counts = backend_micro_batches(uses, identity.micro_batch_size)
            return DigestOrder(
                sources=_sources(identity, index),
                shares=_shares_of(identity, counts),
                timeline=timeline,
                captions=[len(sample.texts) for sample in index.samples],
                crops=[sample.num_crops for sample in index.samples],
                seed=identity.seed,
                data_digest=index.digest(),
            )
        case _:
            assert_never(identity.sample_order)


def data_digest_of(identity: Identity, index: DataIndex) -> str:
    """The digest that a checkpoint of the run guards its data with."""
    match identity.sample_order:
        case 1:
            return path_digest(index)
        case 2:
            return index.digest()
        case _:
            assert_never(identity.sample_order)


def samples_in_order(identity: Identity, index: DataIndex) -> Sequence[int]:
    """The positions of all samples, held out or not, as the plan's order numbers them."""
    positions = range(len(index.samples))
    match identity.sample_order:
        case 1:
            return positions
        case 2:
            contents = _contents(index)
            return sorted(positions, key=contents.__getitem__)
        case _:
            assert_never(identity.sample_order)


def _shares_of(identity: Identity, micro_batches: Mapping[str, int]) -> dict[str, Share]:
    """What each backend contributes to an epoch; ``micro_batches``: id → of an epoch."""
    return {
        backend.id: Share(
            micro_batches=micro_batches[backend.id],
            weight=_weight(identity, backend.probability, micro_batches[backend.id]),
        )
        for backend in identity.backends
        if backend.id in micro_batches
    }


def _weight(identity: Identity, probability: float, micro_batches: int) -> Fraction:
    as_written = Fraction(repr(probability))  # 0.1 is a tenth, which no float is
    match identity.data_backend_sampling:
        case "uniform":
            return as_written
        case "auto-weighting":
            return as_written * micro_batches
        case _:
            assert_never(identity.data_backend_sampling)


def _sources(identity: Identity, index: DataIndex) -> list[Source]:
    buckets: dict[str, dict[tuple[int, int], list[int]]] = {}
    for position in samples_in_order(identity, index):
        sample = index.samples[position]
        if not sample.held_out:
            of_backend = buckets.setdefault(sample.backend, {})
            of_backend.setdefault((sample.width_px, sample.height_px), []).append(position)
    return [
        Source(
            id=id_,
            repeats=index.samples[next(iter(by_size.values()))[0]].repeats,
            buckets=tuple(
                Bucket(width_px=width, height_px=height, samples=tuple(samples))
                for (width, height), samples in sorted(by_size.items())
            ),
            micro_batch_size=identity.micro_batch_size,
        )
        for id_, by_size in buckets.items()
    ]


def _contents(index: DataIndex) -> list[str]:
    """For each sample, the digests of what it is made of; equal where samples are trained on alike.

    One text for each, as these are compared fast.
    """
    names = [entry.digest for entry in index.entries]
    return [
        " ".join(
            (
                *(names[text] for text in each.texts),
                names[each.latents],
                "-" if each.mask is None else names[each.mask],
                f"{each.width_px} {each.height_px} {each.held_out} {each.backend}",
            )
        )
        for each in index.samples
    ]
