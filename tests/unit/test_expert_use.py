"""The count of the experts that are chosen while a run is evaluated."""

import torch

from trainer_core.validation.expert_use import ExpertUse, shares_of

FIRST = torch.tensor([[0, 1], [0, 3]])
SECOND = torch.tensor([[2, 3], [2, 3]])


def forward(use: ExpertUse, *layers: torch.Tensor) -> None:
    use.begin()
    for layer in layers:
        use.note(layer)


def test_choices_are_counted_by_layer_over_all_forwards_that_count() -> None:
    use = ExpertUse(4)
    for _ in range(2):
        forward(use, FIRST, SECOND)
        use.keep()
    forward(use, SECOND, SECOND)  # a rank without a batch computes one that does not count

    assert use.counts().tolist() == [[4, 2, 0, 2], [0, 0, 4, 4]]
    assert shares_of(use.counts()) == [[0.5, 0.25, 0.0, 0.25], [0.0, 0.0, 0.5, 0.5]]


def test_a_forward_that_is_done_again_counts_once() -> None:
    use = ExpertUse(4)
    forward(use, FIRST)  # the device had too little memory for the second layer
    forward(use, FIRST, SECOND)
    use.keep()

    assert use.counts().tolist() == [[2, 1, 0, 1], [0, 0, 2, 2]]


def test_a_rank_without_any_batch_has_zeros_that_can_be_added() -> None:
    busy, idle = ExpertUse(4), ExpertUse(4)
    for use in (busy, idle):
        forward(use, FIRST, SECOND)
    busy.keep()

    assert torch.equal(busy.counts() + idle.counts(), busy.counts())


def test_a_model_without_experts_has_no_shares() -> None:
    use = ExpertUse(0)
    forward(use)
    use.keep()

    assert shares_of(use.counts()) == []
