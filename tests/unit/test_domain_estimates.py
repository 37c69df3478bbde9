"""Estimates from measured attempts: like ones first, others scaled, and nothing out of thin air."""

import math
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.domain.encoding_pace import EncodingPace, encoding_s
from services.domain.estimates import (
    Estimate,
    MeasuredAttempt,
    Task,
    estimate,
    rest_of_run,
    whole_run,
)

Json = dict[str, Any]


def work(px: float = 512**2, *, batch: int = 1, interval: int = 100, **traits: Any) -> Json:
    return {
        "traits": {"compute": "bf16", "recomputed": 1, **traits},
        "step_flops": 2e6 * px * batch,
        "pass_flops": 1e6 * px,
        "sample_flops": 1e12,
        "checkpoint_interval": interval,
    }


def attempt(of: Json | None = None, *, noise: float = 1.0, steps: int = 300) -> MeasuredAttempt:
    """An attempt whose steps take a fixed second and one that grows with the work."""
    of = of or work()
    step_s = noise * (1 + of["step_flops"] / (2e6 * 512**2))
    start_s, checkpoint_s, end_s = 30 * noise, 5 * noise, 20 * noise
    checkpoints = math.ceil((steps + 1) / of["checkpoint_interval"])
    process_s = start_s + steps * step_s + checkpoints * checkpoint_s + end_s
    return MeasuredAttempt(
        work=of,
        num_steps=steps,
        step_s=step_s,
        start_s=start_s,
        checkpoint_s=checkpoint_s,
        end_s=end_s,
        total_s=process_s + 10 * noise,
        process_s=process_s,
        charged_s=steps * step_s + 8 * noise,
    )


def estimated(task: Task, *measured: MeasuredAttempt) -> Estimate:
    found = estimate(task, measured)
    assert found is not None
    return found


def test_nothing_is_estimated_without_a_measurement() -> None:
    assert estimate(whole_run(work(), 100), []) is None
    stopped = attempt()
    unfinished = MeasuredAttempt(**{**_facts(stopped), "end_s": None})
    assert estimate(whole_run(work(), 100), [unfinished]) is None


def _facts(measured: MeasuredAttempt) -> Json:
    return {name: getattr(measured, name) for name in MeasuredAttempt.__slots__}


def test_a_run_like_the_measured_ones_takes_as_long_step_by_step() -> None:
    found = estimated(whole_run(work(), 1000), *[attempt(noise=n) for n in (0.98, 1.0, 1.02)])
    # 10 outside, 30 start, 1000 steps of 2 s, 10 checkpoints of 5 s, 20 end.
    assert math.isclose(found.seconds.p50, 2110, rel_tol=1e-6)
    assert math.isclose(found.charged_s.p50, 2008, rel_tol=1e-6)
    assert 1.0 < found.seconds.p90 / found.seconds.p50 < 1.25
    assert (found.basis.likeness, found.basis.num_attempts) == ("same", 3)


def test_pictures_take_the_time_that_the_end_shows() -> None:
    of = work()
    end_flops = 64 * of["pass_flops"] + of["sample_flops"]
    painted = {
        **of,
        "pictures_flops_a_step": end_flops / 100,
        "first_pictures_flops": end_flops / 2,
    }
    plain, more = (estimated(whole_run(each, 1000), attempt(of)) for each in (of, painted))
    # The end takes 20 s: 10 times as much while it trains, and half of it before.
    assert math.isclose(more.seconds.p50 - plain.seconds.p50, 210, rel_tol=1e-6)
    assert math.isclose(more.charged_s.p50 - plain.charged_s.p50, 210, rel_tol=1e-6)


def test_evaluations_take_the_time_that_the_end_shows() -> None:
    of = work()
    end_flops = 64 * of["pass_flops"] + of["sample_flops"]
    measured = {
        **of,
        "evaluation_flops": end_flops / 4,
        "evaluations_flops_a_step": end_flops / 400,
    }
    plain, more = (estimated(whole_run(each, 1000), attempt(of)) for each in (of, measured))
    # The end takes 20 s: a quarter of it before, a quarter after, and 10 quarters in between.
    assert math.isclose(more.seconds.p50 - plain.seconds.p50, 60, rel_tol=1e-6)
    assert math.isclose(more.charged_s.p50 - plain.charged_s.p50, 60, rel_tol=1e-6)


def test_the_last_step_has_a_checkpoint_of_its_own() -> None:
    assert whole_run(work(interval=100), 250).checkpoints == 3
    assert whole_run(work(interval=100), 200).checkpoints == 2
    assert rest_of_run(work(interval=100), 250, step=120).checkpoints == 2
    assert rest_of_run(work(interval=100), 250, step=250).checkpoints == 1


def test_other_sizes_follow_the_slope_that_the_measurements_show() -> None:
    measured = [attempt(work(px)) for px in (256**2, 384**2, 768**2)]
    found = estimated(whole_run(work(512**2), 2000), *measured)
    truth = estimated(whole_run(work(512**2), 2000), attempt(work(512**2)))
    assert found.basis.likeness == "scaled"
    assert abs(found.seconds.p50 / truth.seconds.p50 - 1) < 0.2
    assert found.seconds.p90 / found.seconds.p50 > truth.seconds.p90 / truth.seconds.p50 * 0.9


def test_runs_of_the_same_settings_come_before_others() -> None:
    fast = [attempt(work(recomputed=0), noise=0.5) for _ in range(5)]
    found = estimated(whole_run(work(), 1000), *fast, attempt())
    assert found.basis.likeness == "same"
    assert found.seconds.p50 > 2000
    only_others = estimated(whole_run(work(), 1000), *fast)
    assert only_others.basis.likeness == "other_settings"
    assert only_others.seconds.p90 / only_others.seconds.p50 > 1.8


def test_one_odd_run_changes_little() -> None:
    usual = [attempt(noise=1 + 0.01 * n) for n in range(9)]
    odd = attempt(noise=8)
    before = estimated(whole_run(work(), 1000), *usual)
    after = estimated(whole_run(work(), 1000), *usual, odd)
    assert abs(after.seconds.p50 / before.seconds.p50 - 1) < 0.02


def test_a_run_that_trains_goes_on_at_its_own_pace_with_less_doubt() -> None:
    measured = [attempt(noise=n) for n in (0.8, 0.9, 1.0, 1.1, 1.2)]
    early = estimated(rest_of_run(work(), 1000, step=10, own_step_s=3.0, own_steps=10), *measured)
    late = estimated(rest_of_run(work(), 1000, step=500, own_step_s=3.0, own_steps=500), *measured)
    assert math.isclose(late.seconds.p50, 500 * 3 + 20, rel_tol=0.01)
    assert late.seconds.p90 / late.seconds.p50 < early.seconds.p90 / early.seconds.p50
    alone = estimated(rest_of_run(work(), 1000, step=500, own_step_s=3.0, own_steps=500))
    assert alone.basis.likeness is None
    assert alone.seconds.p50 == 1500


def test_p90_is_exceeded_by_about_one_run_of_ten() -> None:
    draw = random.Random(7)
    exceeded = 0
    for _ in range(200):
        measured = [attempt(noise=draw.lognormvariate(0, 0.2)) for _ in range(12)]
        new = attempt(noise=draw.lognormvariate(0, 0.2), steps=999)
        found = estimated(whole_run(work(), 1000), *measured)
        exceeded += new.total_s > found.seconds.p90
    assert 8 <= exceeded <= 40


SIZES = st.sampled_from([256**2, 512**2, 1024**2])


@given(
    st.lists(st.tuples(SIZES, st.floats(0.2, 5), st.integers(1, 2000)), min_size=1, max_size=40),
    SIZES,
    st.integers(1, 100_000),
)
def test_estimates_are_finite_ordered_and_grow_with_the_steps(
    measured: list[tuple[int, float, int]], px: int, steps: int
) -> None:
    attempts = [attempt(work(each), noise=noise, steps=n) for each, noise, n in measured]
    found = estimated(whole_run(work(px), steps), *attempts)
    longer = estimated(whole_run(work(px), steps + 100), *attempts)
    for each in (found.seconds, found.charged_s):
        assert 0 < each.p50 <= each.p90 < math.inf
    assert longer.seconds.p50 > found.seconds.p50


PACE = EncodingPace(num_shards=10, ln_unit_s=math.log(2.0), deviation=0.2)


def test_encoding_is_told_only_where_every_missing_kind_was_measured() -> None:
    paces = {"latents": PACE}
    assert encoding_s({}, {}, builders=0) is not None  # all is there
    assert encoding_s({"latents": 3}, paces, builders=0) is None
    assert encoding_s({"latents": 3, "text": 1}, paces, builders=1) is None
    found = encoding_s({"latents": 3}, paces, builders=2)
    assert found is not None
    assert math.isclose(found.p50, 3)
    assert found.p90 > found.p50
