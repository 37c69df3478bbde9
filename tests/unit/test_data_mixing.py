"""The mixture of data backends in an epoch, and the steps at which they start and end."""

import random
from collections import Counter
from fractions import Fraction
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_core.config.plan.windows import Window
from trainer_core.data.mixing import Mix, Share
from trainer_core.data.permutation import key_of
from trainer_core.data.timeline import Span, Timeline, lay_out

shares = st.lists(
    st.builds(
        Share,
        micro_batches=st.integers(1, 60),
        weight=st.fractions(Fraction(1, 1000), 1000, max_denominator=1000),
    ),
    min_size=1,
    max_size=6,
)


def share(micro_batches: int, weight: Fraction | int | str) -> Share:
    return Share(micro_batches=micro_batches, weight=Fraction(weight))


def places_of(mix: Mix, seed: int = 0) -> list[tuple[int, int]]:
    return [
        mix.place_of(position, lambda phase: key_of(seed, phase))
        for position in range(mix.micro_batches)
    ]


@settings(deadline=None, max_examples=40)
@given(shares, st.integers(0, 2**31))
def test_an_epoch_has_every_micro_batch_of_every_backend_once(of: list[Share], seed: int) -> None:
    places = places_of(Mix(of), seed)

    assert sorted(places) == [
        (which, number) for which, each in enumerate(of) for number in range(each.micro_batches)
    ]


@settings(deadline=None, max_examples=40)
@given(shares)
def test_backends_leave_the_mixture_in_the_order_of_their_times(of: list[Share]) -> None:
    """The pool of a phase is those backends whose draws by weight do not use them up earlier."""
    phases = Mix(of).phases()

    left = [each.micro_batches for each in of]
    for phase in phases:
        active = [which for which, number in enumerate(left) if number]
        left = [number - drawn for number, drawn in zip(left, phase, strict=True)]
        weights = sum(of[which].weight for which in active)
        for which in active:
            if left[which]:
                # Rounded down at both ends of the phase.
                expected = sum(phase) * of[which].weight / weights
                assert abs(phase[which] - expected) <= 1 + len(active)
    assert not any(left)


def test_a_mixture_by_hand() -> None:
    """Weights 1 and 3: 30 of 100 fall on the first until the second's 30 are drawn."""
    phases = Mix([share(100, 1), share(30, 3)]).phases()

    # The second is used up at time 30 / 3 = 10, when the first has had 10 · 1 draws.
    assert phases == ((10, 30), (90, 0))


def test_equal_times_make_one_phase() -> None:
    """0.7 and 0.3 of ten: as a float, neither is."""
    assert Mix([share(70, "0.7"), share(30, "0.3")]).phases() == ((70, 30),)


@pytest.mark.parametrize("seed", range(3))
def test_positions_draw_backends_by_their_weights(seed: int) -> None:
    """In the first half of a long phase, within 5 standard deviations of drawing by weight."""
    of = [share(4000, 1), share(6000, 2), share(90_000, 5)]
    mix, draws = Mix(of), 4000
    assert sum(mix.phases()[0]) == 24_000  # the second is used up at time 3000: 3000 · (1+2+5)

    counts = Counter(
        mix.place_of(position, lambda phase: key_of(seed, phase))[0] for position in range(draws)
    )

    for which, each in enumerate(of):
        p = float(each.weight / 8)
        assert abs(counts[which] - draws * p) < 5 * sqrt(draws * p * (1 - p))


def test_it_ends_as_drawing_by_weight_ends() -> None:
    """The mean number of draws until a backend is used up, over 200 simulated epochs."""
    of = [share(200, 1), share(120, 4), share(90, 2)]
    rng, ends = random.Random(3), Counter[int]()
    for _ in range(200):
        left = {which: each.micro_batches for which, each in enumerate(of)}
        draws = 0
        while left:
            ids = list(left)
            which = rng.choices(ids, [float(of[k].weight) for k in ids])[0]
            draws, left[which] = draws + 1, left[which] - 1
            if not left[which]:
                ends[which] += draws
                del left[which]

    places = places_of(Mix(of))
    for which, each in enumerate(of):
        last = max(n for n, place in enumerate(places, 1) if place[0] == which)
        # A phase ends with the use-up of a backend, give or take the noise of the simulation.
        assert last == pytest.approx(ends[which] / 200, rel=0.06), each


def test_millions_of_micro_batches_are_no_table() -> None:
    mix = Mix([share(10**12, "0.5"), share(10**11, 1), share(3, "1e-6")])

    assert len({mix.place_of(position * 10**9, lambda phase: b"k") for position in range(99)}) == 99


def test_backends_that_start_and_end_cut_the_steps_into_spans() -> None:
    timeline = lay_out(
        {"a": Window(end_step=300), "b": Window(start_step=300), "c": Window(start_epoch=3)},
        {"a": 10, "b": 7, "c": 5},
        2,
    )

    # Epochs of a are 5 steps, so epoch 3 starts at step 11; a and c have 15 micro-batches.
    assert timeline.spans == (
        Span(first_step=1, first_epoch=0, micro_batches=10, backends=("a",)),
        Span(first_step=11, first_epoch=2, micro_batches=15, backends=("a", "c")),
        # 289 steps have 578 micro-batches: 38 epochs and a part, which does not count.
        Span(first_step=300, first_epoch=40, micro_batches=22, backends=("a", "b", "c")),
        Span(first_step=301, first_epoch=40, micro_batches=12, backends=("b", "c")),
    )
    assert timeline.idle_from is None


def test_a_backend_ends_with_an_epoch_that_ends_inside_a_step() -> None:
    timeline = lay_out({"a": Window(end_epoch=2), "b": Window(start_epoch=3)}, {"a": 5, "b": 4}, 3)

    # Two epochs of 5 are 10 micro-batches: the fourth step is filled up from a's third epoch.
    assert [(span.first_step, span.first_epoch) for span in timeline.spans] == [(1, 0), (5, 2)]
    assert [timeline.epochs_by(step) for step in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    assert timeline.last_step_of(2) == 4


def test_steps_without_a_backend_are_known() -> None:
    timeline = lay_out({"a": Window(end_step=4), "b": Window(start_step=6)}, {"a": 9, "b": 9}, 1)

    assert timeline.idle_from == 5
    assert timeline.last_step_of(1) == 5  # never over
    with pytest.raises(ValueError, match="step 5"):
        timeline.epochs_by(5)
    with pytest.raises(ValueError, match="step 1"):
        lay_out({"b": Window(start_step=2)}, {"b": 9}, 1)


def test_a_condition_that_is_met_late_cuts_nothing_before() -> None:
    timeline = lay_out(
        {"a": Window(), "b": Window(start_step=4, start_epoch=3)}, {"a": 5, "b": 1}, 1
    )

    assert [span.first_step for span in timeline.spans] == [1, 11]


windows = st.builds(
    Window,
    start_step=st.integers(1, 12),
    start_epoch=st.integers(1, 4),
    end_step=st.none() | st.integers(1, 20),
    end_epoch=st.none() | st.integers(1, 5),
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from("abcd"), windows), st.integers(1, 5), st.data())
def test_every_step_has_the_backends_whose_time_it_is(
    of: dict[str, Window], per_step: int, data: st.DataObject
) -> None:
    of["z"] = Window(end_step=data.draw(st.none() | st.integers(1, 30)))
    counts = {id_: data.draw(st.integers(1, 9)) for id_ in of}
    timeline = lay_out(of, counts, per_step)

    steps = _walked(of, counts, per_step, 40)

    for step, (active, epoch, over) in enumerate(steps, 1):
        span = timeline.spans[timeline.number_at(step)]
        assert span.backends == active
        assert timeline.epochs_by(step) == over
        for every in (1, 2, 3):
            ends = over // every > steps[step - 2][2] // every if step > 1 else over >= every
            assert timeline.ends_epoch(step, every=every) == ends
        assert epoch <= over
    for epochs in range(1, 6):
        last = next((step for step, each in enumerate(steps, 1) if each[2] >= epochs), None)
        if last is not None:
            assert timeline.last_step_of(epochs) == last
    if len(steps) < 40:
        assert timeline.idle_from == len(steps) + 1


def _walked(
    windows: dict[str, Window], counts: dict[str, int], per_step: int, steps: int
) -> list[tuple[tuple[str, ...], int, int]]:
    """For each step: its backends, its first epoch, and the epochs over after it, one by one."""
    found: list[tuple[tuple[str, ...], int, int]] = []
    before: tuple[str, ...] = ()
    epoch = taken = 0
    for step in range(1, steps + 1):
        active = tuple(
            sorted(
                id_
                for id_, window in windows.items()
                if step >= window.start_step
                and epoch + 1 >= window.start_epoch
                and step <= (window.end_step or step)
                and epoch + 1 <= (window.end_epoch or epoch + 1)
            )
        )
        if not active:
            break
        if active != before:
            before, taken = active, 0
        first = epoch
        for _ in range(per_step):
            taken += 1
            if taken == sum(counts[id_] for id_ in active):
                epoch, taken = epoch + 1, 0
        found.append((active, first, epoch))
    return found


def test_the_epochs_of_steps_count_parts() -> None:
    timeline = Timeline(
        spans=(
            Span(first_step=1, first_epoch=0, micro_batches=4, backends=("a",)),
            Span(first_step=4, first_epoch=1, micro_batches=8, backends=("a", "b")),
        ),
        micro_batches_per_step=2,
    )

    assert timeline.epochs_in(3) == 1.5
    assert timeline.epochs_in(5) == 1.5 + 4 / 8
