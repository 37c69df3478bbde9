"""The order of samples is a function of seed, data and position."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_core.data.index import Caption, DataIndex, Encoding, Entry, Sample
from trainer_core.data.sampler import Sampler, draw_seed, permuted

SIZES = ((64, 64), (128, 64), (64, 128))


TEXT = Encoding(kind="text", encoder={})


def entries_of(samples: int) -> tuple[Entry, ...]:
    """One for each sample, and three captions; what they are does not matter here."""
    contents = [Caption(text=f"{n}") for n in range(samples + 3)]
    return tuple(Entry(digest=TEXT.digest_of(c), encoding=0, content=c) for c in contents)


@st.composite
def indexes(draw: st.DrawFn) -> DataIndex:
    kinds = st.tuples(st.sampled_from(SIZES), st.integers(0, 3), st.booleans(), st.integers(1, 3))
    drawn = [((64, 64), 0, False, 1), *draw(st.lists(kinds, max_size=20))]
    return DataIndex(
        samples=tuple(
            Sample(
                backend="a",
                path=f"{position}.png",
                held_out=held_out,
                width_px=size[0],
                height_px=size[1],
                repeats=repeats,
                latents=position,
                texts=tuple(range(len(drawn), len(drawn) + captions)),
            )
            for position, (size, repeats, held_out, captions) in enumerate(drawn)
        ),
        encodings=(TEXT,),
        entries=entries_of(len(drawn)),
        prompts={},
    )


@settings(deadline=None)
@given(indexes(), st.integers(0, 2**31), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_visits_every_sample_as_often_as_asked(
    index: DataIndex, seed: int, size: int, epoch: int
) -> None:
    sampler = Sampler(index, seed, size)
    per_epoch = sampler.micro_batches_per_epoch

    batches = [sampler.micro_batch(i) for i in range(epoch * per_epoch, (epoch + 1) * per_epoch)]

    visits = Counter(sample for batch in batches for sample in batch.samples)
    buckets = Counter((s.width_px, s.height_px) for s in index.samples if not s.held_out)
    for position, sample in enumerate(index.samples):
        if sample.held_out:
            assert visits[position] == 0
        else:
            assert visits[position] >= sample.repeats + 1
    wanted = sum(s.repeats + 1 for s in index.samples if not s.held_out)
    assert visits.total() - wanted < size * len(buckets)  # only short tails are topped up
    for batch in batches:
        assert batch.epoch == epoch
        assert len(batch.samples) == len(batch.captions) == size
        chosen = [index.samples[sample] for sample in batch.samples]
        assert len({(s.width_px, s.height_px) for s in chosen}) == 1
        for sample, caption in zip(chosen, batch.captions, strict=True):
            assert 0 <= caption < len(sample.texts)


@settings(deadline=None)
@given(indexes(), st.integers(0, 2**31), st.permutations(range(12)))
def test_any_order_of_asking_gives_the_same(index: DataIndex, seed: int, order: list[int]) -> None:
    expected = [Sampler(index, seed, 2).micro_batch(i) for i in range(12)]
    sampler = Sampler(index, seed, 2)

    asked = {i: sampler.micro_batch(i) for i in order}

    assert [asked[i] for i in range(12)] == expected


@settings(deadline=None)
@given(st.integers(1, 3000), st.binary(min_size=1, max_size=32))
def test_a_permutation_is_one(count: int, key: bytes) -> None:
    assert sorted(permuted(entry, count, key) for entry in range(count)) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    samples = tuple(
        Sample(
            backend="a",
            path=f"{n}.png",
            held_out=False,
            width_px=64,
            height_px=64,
            repeats=0,
            latents=n,
            texts=(100,),
        )
        for n in range(100)
    )
    index = DataIndex(samples=samples, encodings=(TEXT,), entries=entries_of(100), prompts={})

    def order(seed: int, epoch: int) -> list[int]:
        sampler = Sampler(index, seed, 1)
        start = epoch * sampler.micro_batches_per_epoch
        return [sampler.micro_batch(start + i).samples[0] for i in range(100)]

    orders = [order(1, 0), order(1, 1), order(2, 0), list(range(100))]
    assert all(a != b for n, a in enumerate(orders) for b in orders[:n])


def test_a_million_images_cost_no_more_than_a_hundred() -> None:
    """Position by position: no permutation is ever written out."""
    key, count = b"k", 10**12

    assert len({permuted(entry, count, key) for entry in range(1000)}) == 1000


def test_draws_depend_on_everything() -> None:
    draws = {
        draw_seed(1, "noise", 0, 0),
        draw_seed(2, "noise", 0, 0),
        draw_seed(1, "sigma", 0, 0),
        draw_seed(1, "noise", 1, 0),
        draw_seed(1, "noise", 0, 1),
    }

    assert len(draws) == 5
    assert all(0 <= draw < 2**64 for draw in draws)
