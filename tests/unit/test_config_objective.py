"""Options of sigma, loss, masks and balancing become the plan's objective."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Objective, TimestepSampling

SIGMOID = TimestepSampling(
    name="sigmoid", sigmoid_scale=1.0, beta_alpha=2.0, beta_beta=2.0, values=(), order="random"
)


def objective(config: dict[str, Any] | None = None, **more: Any) -> Objective:
    return import_small(config, **more).plan.identity.objective


def law(**changes: Any) -> TimestepSampling:
    return SIGMOID.model_copy(update=changes)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, SIGMOID),
        ({"flow_sigmoid_scale": 0.5}, law(sigmoid_scale=0.5)),
        ({"flow_use_uniform_schedule": "true"}, law(name="uniform")),
        ({"flow_use_beta_schedule": True}, law(name="beta")),
        (
            {
                "flow_use_beta_schedule": True,
                "flow_beta_schedule_alpha": "3",
                "flow_beta_schedule_beta": 0.5,
            },
            law(name="beta", beta_alpha=3.0, beta_beta=0.5),
        ),
        ({"flow_custom_timesteps": [0.25, 1]}, law(name="list", values=(0.25, 1.0))),
        ({"flow_custom_timesteps": "100, 1000"}, law(name="list", values=(0.1, 1.0))),
        ({"flow_custom_timesteps": "[0.5, 250]"}, law(name="list", values=(0.5, 0.25))),
        ({"flow_custom_timesteps": 0.5}, law(name="list", values=(0.5,))),
        ({"flow_custom_timesteps": ""}, SIGMOID),
        ({"flow_custom_timesteps": []}, SIGMOID),
        (
            {"flow_custom_timesteps": "0.1,0.2", "flow_timesteps_mode": "round-robin"},
            law(name="list", values=(0.1, 0.2), order="round-robin"),
        ),
    ],
)
def test_one_law_of_sigma_is_chosen(written: dict[str, Any], expected: TimestepSampling) -> None:
    assert objective(written).sigma == expected


@pytest.mark.parametrize(
    "value",
    ["0.5,x", "0,0.5", [0.5, True], [-1], [1001], {"a": 1}, "[0.1", [[0.5]], "nan", True, "1e999"],
)
def test_what_is_no_list_of_sigmas_is_refused_at_its_option(value: Any) -> None:
    assert problems_of({"flow_custom_timesteps": value}) == [
        ("/config/flow_custom_timesteps", "bad_value")
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"flow_custom_timesteps": "0.5"}, {"flow_use_uniform_schedule": True}),
        ({"flow_use_uniform_schedule": True}, {"flow_use_beta_schedule": True}),
        ({"flow_custom_timesteps": [0.5]}, {"flow_use_beta_schedule": "true"}),
    ],
)
def test_two_laws_at_once_are_an_error_that_names_both(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    (reported,) = problems_of({**first, **second}, messages=True)

    (name,) = second
    assert reported[0] == f"/config/{name}"
    assert all(option in reported[1] for option in (*first, *second))


@pytest.mark.parametrize(
    ("written", "idle"),
    [
        ({"flow_use_uniform_schedule": True, "flow_sigmoid_scale": 2}, "flow_sigmoid_scale"),
        ({"flow_beta_schedule_alpha": 3}, "flow_beta_schedule_alpha"),
        ({"flow_timesteps_mode": "round-robin"}, "flow_timesteps_mode"),
        ({"flow_custom_timesteps": "0.5", "flow_schedule_auto_shift": True}, "auto_shift"),
        ({"flow_custom_timesteps": "0.5", "flow_schedule_shift": 2}, "flow_schedule_shift"),
        ({"flow_schedule_auto_shift": True, "flow_schedule_shift": 2}, "flow_schedule_shift"),
        ({"huber_c": 0.2}, "huber_c"),
        ({"loss_type": "l2", "huber_schedule": "snr"}, "huber_schedule"),
        ({"masked_loss_probability": 0.5}, "masked_loss_probability"),
        ({"hidream_load_balancing_loss_weight": 0.1}, "hidream_load_balancing_loss_weight"),
        (
            {"hidream_use_load_balancing_loss": 1, "hidream_load_balancing_loss_weight": 0},
            "hidream_use_load_balancing_loss",
        ),
    ],
)
def test_what_has_no_effect_is_said(written: dict[str, Any], idle: str) -> None:
    assert any(idle in warning and "no effect" in warning for warning in notices_of(written))


def test_nothing_is_said_of_options_that_are_off() -> None:
    off = {
        "flow_use_uniform_schedule": "false",
        "flow_schedule_auto_shift": "false",
        "hidream_use_load_balancing_loss": False,
        "flow_sigmoid_scale": 1.0,
        "flow_schedule_shift": 3,
    }

    assert notices_of(off) == notices_of({})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, (3.0, False)),
        ({"flow_schedule_shift": 0}, (1.0, False)),
        ({"flow_schedule_shift": 1.7}, (1.7, False)),
        ({"flow_schedule_auto_shift": True}, (1.0, True)),
        ({"flow_schedule_auto_shift": True, "flow_schedule_shift": 2}, (1.0, True)),
        ({"flow_custom_timesteps": "0.5", "flow_schedule_auto_shift": True}, (1.0, False)),
    ],
)
def test_the_automatic_shift_goes_before_a_fixed_one_and_a_list_has_none(
    written: dict[str, Any], expected: tuple[float, bool]
) -> None:
    found = objective(written)

    assert (found.shift, found.auto_shift) == expected


def test_the_loss_and_its_shape_are_read() -> None:
    huber = objective({"loss_type": "huber", "huber_c": "0.2", "huber_schedule": "constant"})
    smooth = objective({"loss_type": "smooth_l1"})

    assert (huber.loss, huber.huber_c, huber.huber_schedule) == ("huber", 0.2, "constant")
    assert (smooth.loss, smooth.huber_c, smooth.huber_schedule) == ("smooth_l1", 0.1, "snr")


def test_equal_runs_meet_whatever_idle_options_they_carry() -> None:
    plain = import_small({"seed": 1}).plan.identity_digest()
    idle = {"huber_c": 0.7, "flow_beta_schedule_alpha": 9, "masked_loss_probability": 0.5}

    assert import_small({"seed": 1, **idle}).plan.identity_digest() == plain


def test_balancing_has_a_weight_when_it_is_on_and_warns_of_frozen_gates() -> None:
    on = {"hidream_use_load_balancing_loss": True}
    heavy = {**on, "hidream_load_balancing_loss_weight": 0.2}
    full = {"model_type": "full", "lora_type": None}

    assert objective({}).balance_weight == 0
    assert objective(on).balance_weight == 0.01
    assert objective(heavy).balance_weight == 0.2
    assert objective({"hidream_load_balancing_loss_weight": 0.2}).balance_weight == 0
    assert any("gates" in warning for warning in notices_of(on))
    assert not any("gates" in warning for warning in notices_of({**on, **full}))


def test_padding_is_kept_only_where_it_is_asked_for() -> None:
    assert not objective({"pad_compat": "false"}).pad_compat
    assert objective({"pad_compat": True}).pad_compat


def test_the_probability_of_masks_counts_where_there_are_masks() -> None:
    backends = [
        {"id": "cats", "caption_strategy": "filename", "conditioning_data": "cuts"},
        {"id": "cuts", "dataset_type": "conditioning", "conditioning_type": "mask"},
    ]

    assert objective({"masked_loss_probability": 0.5}, backends=backends) == objective(
        {}
    ).model_copy(update={"masked_loss_probability": 0.5})
