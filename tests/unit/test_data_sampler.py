"""The order of samples is a function of seed, data and position, in each order that a plan has."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import import_small
from trainer_core.config.plan import Backend, Identity, plain_backend
from trainer_core.data.index import Caption, Crop, DataIndex, Encoding, Entry, Sample
from trainer_core.data.orders import data_digest_of, sampler_of, samples_in_order
from trainer_core.data.sampler import Sampler

SIZES = ((64, 64), (128, 64), (64, 128))
IDENTITY = import_small().plan.identity
_ENCODING = Encoding(kind="text", encoder={})


def backend(id_: str, **more: Any) -> Backend:
    plain = plain_backend(id_, role="train", caption_strategy="filename")
    return plain.model_copy(update=more)


def identity_of(*backends: Backend, **more: Any) -> Identity:
    shape = {"micro_batch_size": 1, "accumulation_steps": 1, "world_size": 1}
    return IDENTITY.model_copy(update={"backends": backends, **shape, **more})


def index_of(samples: Sequence[dict[str, Any]]) -> DataIndex:
    """Samples of which each has an entry of its own, named by ``content``, and captions."""
    names: dict[str, int] = {}

    def entry(text: str) -> int:
        return names.setdefault(text, len(names))

    made = tuple(
        Sample(
            backend=each.get("backend", "a"),
            path=each.get("path", f"{each['content']}.png"),
            held_out=each.get("held_out", False),
            width_px=each.get("size", SIZES[0])[0],
            height_px=each.get("size", SIZES[0])[1],
            repeats=each.get("repeats", 0),
            latents=entry(f"picture {each['content']}"),
            texts=tuple(entry(f"caption {n}") for n in range(each.get("captions", 1))),
            more_crops=tuple(
                Crop(latents=entry(f"picture {each['content']} crop {n}"))
                for n in range(1, each.get("crops", 1))
            ),
        )
        for each in samples
    )
    contents = [Caption(text=text) for text in names]
    return DataIndex(
        samples=made,
        encodings=(_ENCODING,),
        entries=tuple(
            Entry(digest=_ENCODING.digest_of(content), encoding=0, content=content)
            for content in contents
        ),
        prompts={},
    )


@st.composite
def datasets(draw: st.DrawFn) -> tuple[tuple[Backend, ...], DataIndex]:
    """Backends of all kinds, each with something to train on; some samples are equal."""
    backends: list[Backend] = []
    samples: list[dict[str, Any]] = []
    for id_ in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)):
        repeats = draw(st.integers(0, 3))
        probability = draw(st.sampled_from((1.0, 0.1, 0.7, 3.0, 25.0)))
        backends.append(backend(id_, repeats=repeats, probability=probability))
        kinds = st.tuples(st.sampled_from(SIZES), st.integers(1, 3), st.integers(0, 30))
        crops = draw(st.integers(1, 5))
        for n, (size, captions, content) in enumerate(
            draw(st.lists(kinds, min_size=1, max_size=12))
        ):
            samples.append(
                {"backend": id_, "path": f"{n}.png", "content": f"{id_}{content}", "size": size,
                 "repeats": repeats, "captions": captions, "crops": min(crops, 1 + content % 6)}
            )  # fmt: skip
    samples += [
        {"backend": "held", "content": f"{n}", "held_out": True}
        for n in range(draw(st.integers(0, 2)))
    ]
    return tuple(backends), index_of(samples)


@st.composite
def indexes(draw: st.DrawFn) -> DataIndex:
    """The data alone; its backends are those that are drawn."""
    return draw(datasets())[1]


orders = st.sampled_from((1, 2))
mixtures = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "micro_batch_size": st.integers(1, 5),
        "sample_order": orders,
        "data_backend_sampling": st.sampled_from(("uniform", "auto-weighting")),
    }
)


@settings(deadline=None, max_examples=30)
@given(datasets(), mixtures, st.integers(0, 3))
def test_an_epoch_visits_every_sample_as_often_as_asked(
    data: tuple[tuple[Backend, ...], DataIndex],
    mixture: dict[str, Any],
    epoch: int,
) -> None:
    backends, index = data
    identity = identity_of(*backends, **mixture)
    size = identity.micro_batch_size
    sampler = sampler_of(identity, index)
    per_epoch = sampler.timeline.spans[0].micro_batches

    batches = [sampler.micro_batch(i) for i in range(epoch * per_epoch, (epoch + 1) * per_epoch)]

    def kind(sample: Sample) -> tuple[Any, ...]:
        """Samples of a batch are alike in this; in the older order, in the size alone."""
        return (
            sample.backend if identity.sample_order == 2 else "",
            sample.width_px,
            sample.height_px,
        )

    visits = Counter(sample for batch in batches for sample in batch.samples)
    buckets: Counter[tuple[Any, ...]] = Counter()
    for sample in index.samples:
        if not sample.held_out:
            buckets[kind(sample)] += 1 + sample.repeats
    # Only the last batch of a bucket is filled up, from the start of the bucket.
    filled = {bucket: -number % size for bucket, number in buckets.items()}
    assert visits.total() == sum(buckets.values()) + sum(filled.values())
    for position, sample in enumerate(index.samples):
        least = 0 if sample.held_out else sample.repeats + 1
        assert least <= visits[position] <= least + (0 if sample.held_out else filled[kind(sample)])
    for batch in batches:
        assert batch.epoch == epoch
        assert len(batch.samples) == len(batch.captions) == size
        chosen = [index.samples[sample] for sample in batch.samples]
        assert len({kind(sample) for sample in chosen}) == 1
        for sample, caption in zip(chosen, batch.captions, strict=True):
            assert 0 <= caption < len(sample.texts)


def windowed(data: st.DataObject, backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The backends with times at which they start and end, but for the first."""
    optional = st.none() | st.integers(1, 12)
    return (
        backends[0],
        *(
            each.model_copy(
                update={
                    "start_step": data.draw(st.integers(1, 9)),
                    "start_epoch": data.draw(st.integers(1, 3)),
                    "end_step": data.draw(optional),
                    "end_epoch": data.draw(optional),
                }
            )
            for each in backends[1:]
        ),
    )


@settings(deadline=None, max_examples=30)
@given(datasets(), st.data(), orders)
def test_interruptions_and_other_numbers_of_ranks_change_nothing(
    data: tuple[tuple[Backend, ...], DataIndex], draw: st.DataObject, order: int
) -> None:
    """A run that is stopped, goes on with other ranks, and is stopped again sees the same."""
    backends, index = data
    per_step = draw.draw(st.sampled_from((1, 2, 4, 6)))
    identity = identity_of(
        *windowed(draw, backends),
        micro_batch_size=draw.draw(st.integers(1, 3)),
        accumulation_steps=per_step,
        sample_order=order,
    )
    steps = 25
    whole = sampler_of(identity, index)
    unbroken = [whole.micro_batch(i) for i in range(steps * per_step)]

    seen = []
    step = 0
    while step < steps:
        ranks = draw.draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if per_step % n == 0]))
        end = min(steps, step + draw.draw(st.integers(1, 12)))
        attempts = [sampler_of(identity, index) for _ in range(ranks)]  # of each rank its own
        for rank, sampler in enumerate(attempts):
            for i in range(step * per_step + rank, end * per_step, ranks):
                seen.append(sampler.micro_batch(i))
        step = end

    assert sorted(seen, key=lambda batch: batch.index) == unbroken


@settings(deadline=None, max_examples=30)
@given(datasets(), st.integers(0, 2**31), st.permutations(range(12)), orders)
def test_any_order_of_asking_gives_the_same(
    data: tuple[tuple[Backend, ...], DataIndex], seed: int, asked: list[int], order: int
) -> None:
    identity = identity_of(*data[0], seed=seed, micro_batch_size=2, sample_order=order)
    expected = [sampler_of(identity, data[1]).micro_batch(i) for i in range(12)]
    sampler = sampler_of(identity, data[1])

    found = {i: sampler.micro_batch(i) for i in asked}

    assert [found[i] for i in range(12)] == expected


@settings(deadline=None, max_examples=30)
@given(datasets(), st.data(), st.randoms(use_true_random=False))
def test_names_and_positions_and_the_order_of_backends_do_not_count(
    data: tuple[tuple[Backend, ...], DataIndex], draw: st.DataObject, random: Any
) -> None:
    """Files are renamed, the index is shuffled, and the backends are written in another order."""
    backends, index = data
    identity = identity_of(*windowed(draw, backends), micro_batch_size=2)
    samples = [
        sample.model_copy(update={"path": f"renamed {random.random()}.png"})
        for sample in index.samples
    ]
    random.shuffle(samples)
    other = index.model_copy(update={"samples": tuple(samples)})
    turned = identity.model_copy(update={"backends": tuple(reversed(identity.backends))})

    assert data_digest_of(identity, other) == data_digest_of(identity, index)
    assert taught(turned, other, 40) == taught(identity, index, 40)
    assert [content(other, n) for n in samples_in_order(identity, other)] == [
        content(index, n) for n in samples_in_order(identity, index)
    ]


def taught(identity: Identity, index: DataIndex, count: int) -> list[list[Any]]:
    """What the first micro-batches are trained on: backend, crop and caption of each sample."""
    sampler = sampler_of(identity, index)
    return [
        [
            (
                *content(index, sample),
                index.samples[sample].texts[caption],
                index.samples[sample].crop(crop).latents,
            )
            for sample, caption, crop in zip(
                batch.samples, batch.captions, batch.crops, strict=True
            )
        ]
        for batch in map(sampler.micro_batch, range(count))
    ]


def content(index: DataIndex, position: int) -> tuple[Any, ...]:
    sample = index.samples[position]
    return sample.backend, sample.latents, sample.texts, sample.width_px, sample.height_px


def test_a_batch_has_a_sample_twice_only_where_its_bucket_is_small() -> None:
    """Or where one pass over the bucket ends and the next begins: here never, as 6 is 3 · 2."""
    index = index_of([{"content": n, "repeats": 500} for n in range(6)])
    sampler = sampler_of(identity_of(backend("a", repeats=500), micro_batch_size=2), index)

    assert all(len(set(sampler.micro_batch(i).samples)) == 2 for i in range(501 * 3))


def test_a_sample_that_is_in_a_batch_twice_has_draws_of_its_own_for_each() -> None:
    index = index_of([{"content": "only", "captions": 3}])
    sampler = sampler_of(identity_of(backend("a"), micro_batch_size=4), index)

    assert any(len(set(sampler.micro_batch(i).captions)) > 1 for i in range(5))


def test_backends_are_drawn_by_their_weights() -> None:
    """Weights 3 and 1: of the first 40 micro-batches 30 and 10; by share of samples 3 · 4 : 1."""
    index = index_of(
        [{"backend": "a", "content": n} for n in range(40)]
        + [{"backend": "b", "content": n, "repeats": 3} for n in range(40)]
    )
    backends = (backend("a"), backend("b", repeats=3, probability=3.0))

    def counts(sampling: Any, first: int) -> Counter[str]:
        identity = identity_of(*backends, data_backend_sampling=sampling)
        sampler = sampler_of(identity, index)
        drawn = (sampler.micro_batch(i).samples[0] for i in range(first))
        return Counter(index.samples[sample].backend for sample in drawn)

    # uniform: b's 160 are used up at time 160 / 3 = 53, after a's 40, at 40: a phase of 160.
    assert counts("uniform", 160) == {"a": 40, "b": 120}
    # auto-weighting: weights 40 and 480, so that b is used up at 1/3: ⌊40 / 3⌋ of a.
    assert counts("auto-weighting", 173) == {"a": 13, "b": 160}
    assert counts("auto-weighting", 200) == counts("uniform", 200) == {"a": 40, "b": 160}


def test_a_backend_is_seen_from_its_first_step_to_its_last() -> None:
    index = index_of([{"backend": id_, "content": n} for id_ in "ab" for n in range(30)])
    identity = identity_of(
        backend("a", end_step=10), backend("b", start_step=8), accumulation_steps=2
    )
    sampler = sampler_of(identity, index)

    def backends_of(step: int) -> set[str]:
        batches = (sampler.micro_batch(i) for i in range((step - 1) * 2, step * 2))
        return {index.samples[batch.samples[0]].backend for batch in batches}

    assert [backends_of(step) for step in range(1, 8)] == [{"a"}] * 7
    assert set.union(*(backends_of(step) for step in range(8, 11))) == {"a", "b"}
    assert [backends_of(step) for step in range(11, 20)] == [{"b"}] * 9
    for i in range(100):
        assert sampler.timeline.epoch_of(i) == sampler.micro_batch(i).epoch
    # The epoch begins anew with step 11: every picture of b is seen in the 15 steps from there.
    rest = {sampler.micro_batch(i).samples[0] for i in range(20, 50)}
    assert len(rest) == 30


@pytest.mark.parametrize("order", [1, 2])
def test_epochs_seeds_and_spans_differ(order: int) -> None:
    index = index_of([{"content": n} for n in range(100)])
    fewer = index.model_copy(update={"samples": index.samples[:-1]})

    def orders_of(sampler: Sampler, epoch: int) -> list[int]:
        return [sampler.micro_batch(epoch * 100 + i).samples[0] for i in range(99)]

    def make(data: DataIndex, seed: int) -> Sampler:
        return sampler_of(identity_of(backend("a"), seed=seed, sample_order=order), data)

    orders = [
        orders_of(make(index, 1), 0),
        orders_of(make(index, 1), 1),
        orders_of(make(index, 2), 0),
        orders_of(make(fewer, 1), 0),
        list(range(99)),
    ]
    assert all(a != b for n, a in enumerate(orders) for b in orders[:n])
    sampler = make(index, 1)
    for i in (0, 99, 100, 250):
        assert sampler.timeline.epoch_of(i) == sampler.micro_batch(i).epoch == i // 100


def test_ten_million_visits_cost_no_more_than_ten() -> None:
    """With a million repeats: there is no table of uses, and no permutation is written out."""
    more = [{"backend": f"b{n}", "content": n} for n in range(40)]
    index = index_of(
        [{"content": n, "repeats": 10**6, "size": SIZES[n % 3]} for n in range(20)] + more
    )
    others = (backend(f"b{n}", probability=1 + n / 7) for n in range(40))
    identity = identity_of(backend("a", repeats=10**6), *others, data_backend_sampling="uniform")
    started = time.process_time()
    sampler = sampler_of(identity, index)
    made_s = time.process_time() - started

    def seconds(places: Sequence[int]) -> float:
        started = time.process_time()
        for i in places:
            sampler.micro_batch(i)
        return (time.process_time() - started) / len(places)

    sampler.micro_batch(0)
    late = min(seconds(range(start, start + 200)) for start in (10**7, 10**7 + 500, 10**12))
    assert sampler.timeline.spans[0].micro_batches == 20 * (10**6 + 1) + 40
    assert late < 1e-3
    assert made_s < 0.5
