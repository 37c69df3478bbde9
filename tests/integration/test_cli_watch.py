"""What `reverie runs watch` shows; each test feeds events into the state."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from services.cli.watch_state import WatchState, smoothed
from services.cli.watch_view import plain_line, render, sparkline
from services.client.run_output_shapes import Event
from trainer_core.in_words import duration


def event(type_: str, step: int = 0, **data: Any) -> Event:
    return Event(id=1, type=type_, step=step, data=data, created_at="")


def state_after(*events: Event, max_steps: int = 100) -> WatchState:
    state = WatchState(run_id="run_" + "0" * 32, max_steps=max_steps)
    for each in events:
        state.apply(each)
    return state


def shown(state: WatchState) -> str:
    screen = StringIO()
    Console(file=screen, width=90).print(render(state))
    return screen.getvalue()


TRAINING = (
    event("run.queued", stage="admission", reason=None),
    event("run.running", stage="caching", reason=None),
    event("run.queued", stage="capacity", reason=None),
    event("run.started", stage="provisioning", reason=None, attempt=1),
    event("stage", stage="training"),
    event("eval", 0, name="probe", mean=0.5, held_out_mean=0.6, losses=[0.5]),
    event("step", 1, loss=0.9, steps_per_s=2.0, eta_s=200.0),
    event("step", 2, loss=0.7, steps_per_s=2.0, eta_s=199.0),
    event("run.checkpoint", 2),
    event("step", 3, loss=0.5, steps_per_s=4.0, eta_s=98.0),
)


def test_panel_shows_the_facts_of_the_events() -> None:
    text = shown(state_after(*TRAINING))
    for fact in ("running/training", "3/100", "0.5000", "4.00 steps/s", "1 min 38 s left"):
        assert fact in text
    assert "step 2" in text
    assert "0.5000, held out 0.6000" in text


def test_the_last_panel_compares_the_validation_losses() -> None:
    end = (
        event("eval", 100, name="probe", mean=0.4, held_out_mean=0.6, losses=[0.4]),
        event("run.succeeded", 100, stage=None, reason=None),
    )
    text = shown(state_after(*TRAINING, *end))
    assert "0.5000 → 0.4000 (-20.0 %)" in text
    assert "steps/s" not in text


def test_evaluations_have_a_row_and_lines_of_their_own() -> None:
    def evaluation(step: int, mean: float | None, **more: Any) -> Event:
        low = None if mean is None else mean - 0.1
        high = None if mean is None else mean + 0.1
        facts = {"low": low, "high": high, "images": 4, "held_out": True, **more}
        return event("eval", step, name="evaluation", mean=mean, **facts)

    first, better, worse = evaluation(0, 2.0), evaluation(2, 1.0, is_best=True), evaluation(4, 1.5)

    assert "evaluation  2.0000 at step 0" in shown(state_after(first))
    state = state_after(*TRAINING, first, better, worse, evaluation(6, None))
    assert "2.0000 → 1.5000 (-25.0 %) at step 4, lowest 1.0000 at step 2" in shown(state)
    assert "validation" in shown(state)
    # A resumed run measures again what came after its checkpoint.
    again = state_after(*TRAINING, first, better, worse, better)
    assert "2.0000 → 1.0000 (-50.0 %) at step 2, the lowest" in shown(again)
    assert plain_line(state, better, 1) == (
        "step 2/100: evaluation loss 1.0000 (0.9000 to 1.1000, 4 held-out images), "
        "the lowest so far"
    )
    assert plain_line(state, evaluation(6, None), 5) == (
        "step 6/100: evaluation loss is not finite (4 held-out images)"
    )


def test_clip_scores_have_a_row_for_each_kind_of_weights() -> None:
    def scores(step: int, weights: str, mean: float | None) -> Event:
        facts = {"min": 0.1, "max": 0.4, "pictures": 3}
        return event("eval", step, name="clip", weights=weights, mean=mean, **facts)

    first, again = scores(2, "trained", 0.25), scores(2, "trained", 0.3)
    state = state_after(scores(0, "base", 0.2), first, scores(4, "trained", 0.35))

    assert "CLIP score  0.2000 at step 0, base weights" in shown(state)
    assert "CLIP score  0.2500 → 0.3500 at step 4, trained weights" in shown(state)
    assert plain_line(state, first, 1) == (
        "step 2/100: CLIP score 0.2500 (0.1000 to 0.4000, 3 pictures, trained weights)"
    )
    assert "0.3000 at step 2, trained" in shown(state_after(first, again))
    assert "CLIP" not in shown(state_after(scores(2, "trained", None)))
    assert "similarity" not in shown(state)


def test_similarities_to_the_training_pictures_have_rows_too() -> None:
    def scores(step: int, near: float) -> Event:
        facts = {"weights": "ema", "mean": 0.25, "min": 0.1, "max": 0.4, "pictures": 3}
        of_near = {"similarity_mean": near, "similarity_min": 0.5, "similarity_max": 0.9}
        return event("eval", step, name="clip", **facts, **of_near)

    first = scores(2, 0.7)
    state = state_after(first, scores(4, 0.75))

    assert "similarity  0.7000 → 0.7500 at step 4, ema weights" in shown(state)
    assert plain_line(state, first, 1) == (
        "step 2/100: CLIP score 0.2500 (0.1000 to 0.4000, 3 pictures, ema weights), "
        "similarity 0.7000 (0.5000 to 0.9000)"
    )


def test_a_preview_is_told_once_a_picture_and_goes_with_its_stage() -> None:
    first = event("preview", 2, picture="samples/step-000002/cat-64x48-42.png", name="cat")
    state = state_after(event("stage", 2, stage="sampling"), first)

    way = f"reverie runs samples {state.run_id} --preview FILE"
    assert "samples/step-000002/cat-64x48-42.png" in shown(state)
    assert plain_line(state, first, 2) == (
        f"step 2/100: preview of samples/step-000002/cat-64x48-42.png: {way}"
    )
    state.apply(event("stage", 2, stage="training"))
    assert "cat-64x48-42" not in shown(state)


def test_panel_shows_why_a_run_failed_and_escapes_text_of_tenants() -> None:
    reason = {"code": "bad_image", "category": "user", "message": "[red]a.jpg[/] is truncated"}
    text = shown(state_after(event("run.failed", stage=None, reason=reason)))
    assert "[red]a.jpg[/] is truncated [bad_image]" in text


def test_a_new_attempt_resumes_from_the_checkpoint() -> None:
    lost = {"code": "worker_lost", "message": "The worker that held the run was lost."}
    state = state_after(
        *TRAINING,
        event("run.queued", stage="capacity", reason=lost),
        event("run.started", stage="provisioning", reason=None, attempt=2),
    )
    assert (state.attempt, state.step) == (2, 2)
    assert [step for step, _ in state.losses] == [1, 2]
    assert "attempt 2" in shown(state)


def test_a_pause_and_what_the_service_tells_beside_are_shown() -> None:
    limit = {"code": "cost_limit_reached", "message": "The run has used up its max_cost of 5.00."}
    state = state_after(*TRAINING)
    lines = []
    for each in (
        event("run.changed", 3, fields=["priority"]),
        event("run.pausing", 3, stage="training", reason=limit),
        event("run.paused", 3, stage=None, reason=limit),
        event("run.resumed", 3, status="queued", stage="capacity", reason=None),
    ):
        state.apply(each)
        lines.append(plain_line(state, each, 3))
    told = f"{limit['message']} [{limit['code']}]"
    assert lines == [
        None,
        f"pausing/training: {told}",
        f"paused: {told}",
        "queued/capacity (resumed)",
    ]
    assert (state.status, state.reason) == ("queued", None)


def test_missing_numbers_change_nothing() -> None:
    without_numbers = event("step", 1, loss=None, steps_per_s=None, eta_s=None)
    state = state_after(without_numbers)
    assert state.step == 1
    assert plain_line(state, without_numbers, 0) is None
    assert state.losses == []
    shown(state)


def test_warnings_are_kept_once() -> None:
    state = state_after(
        event("plan", warnings=["cache_dir is ours"]),
        event("warning", code="slow", message="This is slow."),
        event("warning", code="slow", message="This is slow."),
    )
    assert state.warnings == ["cache_dir is ours", "This is slow. [slow]"]


def test_few_steps_get_a_plain_line() -> None:
    state = WatchState(run_id="run_" + "0" * 32, max_steps=100)
    lines = []
    for step in range(1, 101):
        before = state.step
        each = event("step", step, loss=1.0, steps_per_s=1.0, eta_s=1.0)
        state.apply(each)
        if plain_line(state, each, before) is not None:
            lines.append(step)
    assert lines == [1, *range(10, 101, 10)]


def test_plain_line_of_a_stage_and_a_checkpoint() -> None:
    state = state_after(*TRAINING)
    assert plain_line(state, event("stage", stage="training"), 3) == "running/training"
    assert plain_line(state, event("run.checkpoint", 2), 3) == "step 2/100: checkpoint saved"
    assert plain_line(state, event("sample"), 3) is None
    painted = event("sample", 2, path="samples/step-000002/cat-64x64-1.png", name="cat")
    state.apply(painted)
    line = "step 2/100: picture samples/step-000002/cat-64x64-1.png"
    assert plain_line(state, painted, 3) == line
    assert "samples/step-000002/cat-64x64-1.png" in shown(state)


@pytest.mark.parametrize(
    ("values", "blocks"), [([], ""), ([1, 1], "▁▁"), ([0, 1], "▁█"), ([0, 7, 3.5], "▁█▅")]
)
def test_sparkline(values: list[float], blocks: str) -> None:
    assert sparkline(values) == blocks


def test_sparkline_fits_its_width() -> None:
    line = sparkline([float(n) for n in range(1000)], width=8)
    assert line == "▁▂▃▄▅▆▇█"


def test_smoothed_loss_is_a_mean_of_the_losses_so_far() -> None:
    assert smoothed([0.5]) == pytest.approx(0.5)
    assert 0.5 < smoothed([0.9, 0.5]) < 0.9


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
