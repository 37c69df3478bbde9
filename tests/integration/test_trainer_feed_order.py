"""The order in which the entries of a run are fetched ahead of its steps."""

from itertools import islice

from tests.support.feeding import index_of, latents_at, order_of, sampler_in
from trainer_core.data.index import Crop, DataIndex
from trainer_core.data.sampler import MicroBatch


def test_the_order_is_that_of_the_first_use() -> None:
    index = index_of(12, num_held_out=2)
    digests = [entry.digest for entry in index.entries]
    text, held_out = digests[12], digests[10:12]
    used = list(dict.fromkeys(latents_at(index, i) for i in range(40)))
    later = list(dict.fromkeys(latents_at(index, i) for i in range(7, 47)))
    assert len(used) == len(later) == 10

    order = order_of(index)

    assert list(order.digests_from(0)) == [text, *held_out, *used], "validation comes first"
    assert list(order.digests_from(7)) == [text, *later, *held_out]


def test_masks_come_with_their_images_and_only_the_caption_that_is_drawn() -> None:
    plain = index_of(9)
    masked = tuple(
        sample.model_copy(update={"mask": n + 3, "texts": (n + 6, 9)})
        for n, sample in enumerate(plain.samples[:3])
    )
    index = plain.model_copy(update={"samples": masked})
    batches = [sampler_in(index).micro_batch(i) for i in range(3)]
    expected = [9]  # the prompt
    for batch in batches:
        ((sample,), (caption,)) = batch.samples, batch.captions
        expected += [sample, sample + 3, masked[sample].texts[caption]]

    found = order_of(index).digests_from(0)

    expected_digests = list(dict.fromkeys(index.entries[each].digest for each in expected))
    assert list(islice(found, len(expected_digests))) == expected_digests


def test_of_several_crops_only_the_one_that_is_used_comes_now() -> None:
    plain = index_of(9)
    samples = tuple(
        sample.model_copy(update={"more_crops": (Crop(latents=n + 3, mask=n + 6),)})
        for n, sample in enumerate(plain.samples[:3])
    )
    index = plain.model_copy(update={"samples": samples})
    batches = [sampler_in(index).micro_batch(i) for i in range(6)]
    expected = [9]  # the prompt
    for batch in batches:
        ((sample,), (crop,)) = batch.samples, batch.crops
        expected += [sample + 3, sample + 6] if crop else [sample]

    found = order_of(index).digests_from(0)

    assert [index.entries[each].digest for each in dict.fromkeys(expected)] == list(
        islice(found, 10)
    )
    assert len(set(expected)) == 10  # in two epochs, both crops of each image


class CountingSampler:
    def __init__(self, index: DataIndex) -> None:
        self._sampler = sampler_in(index)
        self.timeline = self._sampler.timeline
        self.calls = 0

    def micro_batch(self, i: int) -> MicroBatch:
        self.calls += 1
        return self._sampler.micro_batch(i)


def test_the_order_ends_where_no_backend_is_left() -> None:
    """The look-ahead goes beyond the last step."""
    index = index_of(300)
    order = order_of(index, per_step=1, sampler=sampler_in(index, end_step=20))
    endless = list(order_of(index, per_step=1).digests_from(0))

    assert list(order.digests_from(0))[:21] == endless[:21]  # the empty prompt first
    assert sorted(order.digests_from(19)) == sorted(endless)


def test_as_the_step_goes_on_only_new_batches_are_computed() -> None:
    index = index_of(300)
    sampler = CountingSampler(index)
    order = order_of(index, per_step=4, sampler=sampler)
    first = list(order.digests_from(0))
    looked_ahead = sampler.calls
    assert looked_ahead > 300

    for step in range(1, 11):
        assert len(list(order.digests_from(step))) == len(first)
        assert len(list(order.digests_from(step))) == len(first)
    assert sampler.calls == looked_ahead + 10 * 4

    expected = list(order_of(index, per_step=4).digests_from(10))
    assert list(order.digests_from(10)) == expected
    assert list(order.digests_from(5_000)) == list(order_of(index, per_step=4).digests_from(5_000))
    assert list(order.digests_from(10)) == expected, "after a step back, too"
