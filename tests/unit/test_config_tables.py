"""The tables of options: every value of the plan can be asked for, and every row can be read."""

from typing import Any, get_args

import pytest

from trainer_core.config import plan
from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.presets import OVERRIDE, PRESET
from trainer_core.config.simpletuner.sources import RowStrategy
from trainer_core.config.simpletuner.verdicts import Option

TABLES = {
    "config": OPTIONS,
    "backend": BACKEND_OPTIONS,
    "lycoris": LYCORIS.rows,
    "preset": PRESET.rows,
    "override": OVERRIDE.rows,
}
ROWS = [(name, row) for table in TABLES.values() for name, row in table.items()]


def chosen(table: str, name: str) -> set[Any]:
    """The values that an option's choices have."""
    row = TABLES[table][name]
    assert isinstance(row, Option)
    return set(row.choices.values())


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("device", plan.Device),
        ("ema_device", plan.Place),
        ("flow_timesteps_mode", plan.TimestepOrder),
        ("grad_clip_method", plan.ClipMethod),
        ("huber_schedule", plan.HuberSchedule),
        ("lora_init_type", plan.AdapterInit),
        ("loss_type", plan.Loss),
        ("lr_scheduler", plan.ScheduleName),
        ("mixed_precision", plan.Compute),
        ("base_model_precision", plan.Quantization),
        ("caption_strategy", plan.CaptionStrategy | RowStrategy),
    ],
)
def test_every_value_of_the_plan_has_a_choice(name: str, literal: Any) -> None:
    parts = get_args(literal)
    values = {value for part in parts for value in get_args(part) or (part,)}
    assert chosen("config", name) == values


def test_every_optimizer_of_the_plan_has_a_row() -> None:
    rows = chosen("config", "optimizer")

    assert {row.name for row in rows} == set(get_args(plan.OptimizerName))


def test_every_tracker_of_the_plan_has_a_choice() -> None:
    rows = chosen("config", "report_to")

    assert {row.built for row in rows} == {None, *get_args(plan.Tracker)}


def test_every_kind_of_backend_has_a_choice() -> None:
    assert chosen("backend", "dataset_type") == {"cache", *get_args(plan.BackendRole)}
    assert chosen("backend", "crop_aspect") == set(get_args(plan.CropAspect))
    assert chosen("backend", "conditioning_type") == set(get_args(plan.MaskKind))


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_is_an_option_exactly_where_it_is_honoured(name: str, row: Any) -> None:
    assert row.name == name
    assert isinstance(row, Option) == (row.kind == "honoured")
    if isinstance(row, Option) and row.choices and not row.is_list:
        assert row.default is None or row.default in row.choices.values()
        assert not set(row.known) & row.choices.keys()
