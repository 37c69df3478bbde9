"""`--sweep` as it is typed, and what is shown of a batch."""

from io import StringIO
from typing import Any

import pytest
import typer
from rich.console import Console

from services.cli import batch_view
from services.cli.batch_watch import table
from services.cli.sweeps import parse_sweep
from services.client.batch_shapes import ComparedRun, Comparison


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("learning_rate=1e-2,3e-3", "learning_rate", [1e-2, 3e-3]),
        ("--max_train_steps=10", "max_train_steps", [10]),
        ("optimizer=optimi-lion,prodigy", "optimizer", ["optimi-lion", "prodigy"]),
        ("use_ema=true,false", "use_ema", [True, False]),
        ("tracker_run_name=1,2", "tracker_run_name", ["1", "2"]),
        ('report_to=["a,b", "c"]', "report_to", ["a,b", "c"]),
        ("lycoris_config.factor=8,16", "lycoris_config.factor", [8, 16]),
        ("learning_rate=1e-5..1e-3", "learning_rate", {"min": 1e-5, "max": 1e-3}),
        ("a=4..64:log", "a", {"min": 4, "max": 64, "scale": "log"}),
        ("a=-1.5..0:linear", "a", {"min": -1.5, "max": 0, "scale": "linear"}),
        ("a=..", "a", [".."]),
    ],
)
def test_values_are_read_as_json_or_text(text: str, name: str, values: Any) -> None:
    sweep = parse_sweep([text], method="random", num_runs=3, seed=None)
    assert sweep == {"method": "random", "options": {name: values}, "num_runs": 3}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learning_rate"], "is not NAME=VALUE"),
        (["=1"], "is not NAME=VALUE"),
        (["a=1", "--a=2"], "a is given twice"),
        (["a=[1"], "no JSON list"),
        (["a=1..2:cubic"], "linear or log, not cubic"),
        (["a=1e..2"], "is not a range"),
        (["a=1..1e999"], "is not a range"),
        (["a=[1, NaN]"], "NaN is not a number"),
        (["a=[1e999]"], "1e999 is not a number"),
    ],
)
def test_what_cannot_be_read_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        parse_sweep(texts, method="grid", num_runs=None, seed=None)


def test_options_of_a_sweep_need_one() -> None:
    assert parse_sweep([], method="grid", num_runs=None, seed=None) is None
    with pytest.raises(typer.BadParameter, match="nothing to combine"):
        parse_sweep([], method="random", num_runs=3, seed=None)


def test_a_run_is_one_line() -> None:
    run: ComparedRun = {
        "row": 3,
        "run_id": "run_1",
        "options": {"learning_rate": 0.01, "caption": "x" * 60},
        "status": "running",
        "stage": "training",
        "status_reason": None,
        "step": 4,
        "max_steps": 10,
        "loss": 0.51234,
        "loss_step": 4,
        "best_loss": 0.25,
        "best_loss_step": 2,
        "evaluation": {"step": 9, "mean": 0.375, "held_out_mean": None},
        "charged_s": 61.0,
        "cost_micros": 1_500_000,
        "currency": "EUR",
    }
    assert batch_view.line(run) == (
        f"row 3 (learning_rate=0.01, caption={'x' * 40}…): running/training, step 4/10, loss 0.5123"
    )
    assert batch_view.cells(run, ["learning_rate", "seed"])[2:] == (
        "0.01", "null", "running", "4/10", "0.5123", "0.2500", "0.3750", "1 min 1 s, 1.50 EUR",
    )  # fmt: skip
    names = ["learning_rate", "a.b.factor", "a.crop", "c.crop"]
    assert batch_view.heads(names) == ["learning_rate", "factor", "a.crop", "c.crop"]
    screen = StringIO()
    options = ["learning_rate", "caption", *(f"a.long.name.of.an.option_{n}" for n in range(5))]
    state: Comparison = {"object": "comparison", "batch_id": "", "options": options, "runs": [run]}
    Console(file=screen, width=60).print(table(state))
    assert screen.getvalue().splitlines()[1].startswith("3    running  4/10  0.5123")
    assert batch_view.status({"queued": 3, "failed": 1}) == "1 failed, 3 queued"


def test_refused_rows_are_named_with_their_values() -> None:
    error = {"pointer": "/sweep/options/a/1", "code": "bad_value", "message": "a is wrong."}
    lines = batch_view.refusals(
        [{"row": 1, "options": {"a": -1}, "errors": [error], "num_errors": 3}]  # type: ignore[list-item]
    )
    assert lines == ["row 1 (a=-1): refused: a is wrong. [bad_value]", "row 1 (a=-1): and 2 more"]
