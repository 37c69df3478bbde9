"""Batches that stay where they are, for CUDA graphs."""

from dataclasses import replace

import torch

from trainer_core.engine.batch import Batch
from trainer_core.engine.static_batches import StaticBatches, shapes_of
from trainer_core.hidream.text import TextEmbeddings


def batch_of(seed: int, height: int = 4, width: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return Batch(
        noisy_BCHW=normal(2, 16, height, width).bfloat16(),
        target_BCHW=normal(2, 16, height, width),
        sigmas_B=normal(2),
        text=TextEmbeddings(normal(2, 5, 8), normal(2, 3, 5, 8), normal(2, 8)),
        mask_B1HW=normal(2, 1, height, width),
        is_prior_B=torch.tensor([True, False]),
        dropout_seed=torch.tensor(seed),
    )


def addresses(batch: Batch) -> list[int]:
    return [tensor.data_ptr() for tensor in batch.tensors()]


def test_a_filled_batch_has_the_values_and_does_not_move() -> None:
    static = StaticBatches()
    first = static.filled(batch_of(1))
    before = addresses(first)

    again = static.filled(batch_of(2))

    assert addresses(again) == before
    wanted = batch_of(2)
    for found, value in zip(again.tensors(), wanted.tensors(), strict=True):
        assert torch.equal(found, value)
        assert found.dtype is value.dtype


def test_batches_of_another_size_share_what_has_the_same_shape() -> None:
    static = StaticBatches()
    wide = static.filled(batch_of(1, 4, 6))
    square = static.filled(batch_of(2, 4, 4))

    assert square.text.llama.data_ptr() == wide.text.llama.data_ptr()
    assert square.noisy_BCHW.data_ptr() != wide.noisy_BCHW.data_ptr()
    # Equal shapes of different fields are different tensors.
    assert len(set(addresses(wide))) == len(addresses(wide))
    assert addresses(static.filled(batch_of(3, 4, 6))) == addresses(wide)


def test_shapes_tell_what_needs_other_operations() -> None:
    batch = batch_of(1)
    others = [
        batch_of(1, 6, 4),
        replace(batch, mask_B1HW=None),
        replace(batch, is_prior_B=None),
        replace(batch, mask_B1HW=None, is_prior_B=None),
    ]

    assert shapes_of(batch) == shapes_of(batch_of(2))
    assert len({shapes_of(each) for each in [batch, *others]}) == 5
