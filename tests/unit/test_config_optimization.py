"""Options of optimizer, schedule, clipping, EMA and ranks become their parts of the plan."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Clip, EmaPlan, Identity, OptimizerPlan

FULL = {"model_type": "full", "lora_type": None}


def identity(config: dict[str, Any]) -> Identity:
    return import_small(config).plan.identity


@pytest.mark.parametrize(
    ("written", "name", "betas", "decay"),
    [
        ("optimi-lion", "optimi-lion", (0.9, 0.99), 0.0),
        ("optimi-adamw", "optimi-adamw", (0.9, 0.99), 0.0),
        ("torch-adamw", "adamw", (0.9, 0.999), 0.01),
        ("adamw_bf16", "adamw", (0.9, 0.999), 0.01),
        ("bnb-lion8bit-paged", "bnb-lion8bit-paged", (0.9, 0.99), 0.0),
        ("prodigy", "prodigy", (0.9, 0.99), 0.0),
    ],
)
def test_each_optimizer_has_its_defaults(
    written: str, name: str, betas: tuple[float, float], decay: float
) -> None:
    plan = identity({"optimizer": written, "learning_rate": 1.0}).optimizer

    assert plan == OptimizerPlan(
        name=name,  # type: ignore[arg-type]  # from the table above
        learning_rate=1.0,
        betas=betas,
        eps=1e-6 if written in ("adamw_bf16", "optimi-adamw") else 1e-8,
        weight_decay=decay,
    )


def test_prodigy_wants_a_rate_near_one() -> None:
    assert identity({"optimizer": "prodigy", "learning_rate": None}).optimizer.learning_rate == 1.0
    assert identity({"optimizer": "prodigy", "learning_rate": 0.1}).optimizer.learning_rate == 0.1
    (reported,) = problems_of({"optimizer": "prodigy", "learning_rate": 4e-5}, messages=True)
    assert reported[0] == "/config/learning_rate"
    assert "1.0" in reported[1]
    clipped = {"optimizer": "prodigy", "learning_rate": 1}
    assert any("max_grad_norm" in w for w in notices_of(clipped))
    assert not any("max_grad_norm" in w for w in notices_of({**clipped, "max_grad_norm": 0}))


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("beta1=0.8,weight_decay=0.1", {"betas": (0.8, 0.999), "weight_decay": 0.1}),
        ("betas=0.8,0.9", {"betas": (0.8, 0.9)}),
        (" betas = (0.8, 0.9) , eps=1e-6", {"betas": (0.8, 0.9), "eps": 1e-6}),
        ("", {}),
        ("none", None),
        ("beta1=2", None),
        ("beta1=x", None),
        ("betas=0.5", None),
        ("eps=0", None),
        ("weight_decay=-1", None),
        ("beta1=0.5,beta1=0.6", None),
        ("wieght_decay=0.1", None),
    ],
)
def test_the_config_of_an_optimizer_is_read(text: str, changes: dict[str, Any] | None) -> None:
    config = {"optimizer": "torch-adamw", "optimizer_config": text}

    if changes is None:
        assert {pointer for pointer, _ in problems_of(config)} == {"/config/optimizer_config"}
    else:
        plain = identity({"optimizer": "torch-adamw"}).optimizer
        assert identity(config).optimizer == plain.model_copy(update=changes)


def test_an_option_that_the_optimizer_lacks_names_the_nearest() -> None:
    lion = {"optimizer": "optimi-lion", "optimizer_config": "eps=1e-6"}
    typo = {"optimizer": "torch-adamw", "optimizer_config": "wieght_decay=0.1"}

    assert "optimi-lion has no eps" in problems_of(lion, messages=True)[0][1]
    assert "did you mean weight_decay" in problems_of(typo, messages=True)[0][1]


def test_one_setting_from_two_options_has_to_be_one_value() -> None:
    twice = {"optimizer": "torch-adamw", "optimizer_beta1": 0.8, "optimizer_config": "beta1=0.7"}

    assert problems_of(twice) == [("/config/optimizer_config", "conflict")]
    assert identity({**twice, "optimizer_beta1": 0.7}).optimizer.betas == (0.7, 0.999)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"lr_scheduler": "constant"}, ("constant", 0, 0.0, 1.0, None)),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 3},
         ("constant_with_warmup", 3, 0, 1, None)),
        ({"lr_scheduler": "linear", "lr_warmup_steps": "3"}, ("linear", 3, 0, 1, None)),
        ({"lr_scheduler": "cosine"}, ("cosine", 0, 4e-7, 1, None)),
        ({"lr_scheduler": "cosine_with_warmup"}, ("cosine", 0, 4e-7, 1, None)),
        (
            {"lr_scheduler": "cosine", "lr_period_steps": 5, "lr_end": 0, "lr_warmup_steps": 2},
            ("cosine", 2, 0, 1, 5),
        ),
        ({"lr_scheduler": "polynomial"}, ("polynomial", 0, 4e-7, 0.8, None)),
        ({"lr_scheduler": "polynomial", "lr_power": 2}, ("polynomial", 0, 4e-7, 2, None)),
    ],
)  # fmt: skip
def test_warm_up_and_period_are_two_things(written: dict[str, Any], expected: Any) -> None:
    plan = identity(written).schedule

    assert (plan.name, plan.warmup_steps, plan.end, plan.power, plan.period_steps) == expected


def test_a_schedule_that_cannot_fall_is_an_error() -> None:
    low = {"lr_scheduler": "cosine", "learning_rate": 1e-5}

    assert problems_of({**low, "lr_end": 1e-5}) == [("/config/lr_end", "conflict")]
    assert identity({**low, "lr_end": 9e-6}).schedule.end == 9e-6


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 2}, "lr_period_steps"),
        ({"lr_warmup_steps": 99}, "longer than the run"),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 10}, "never falls"),
        ({"lr_scheduler": "linear", "lr_end": 1e-6}, "lr_end: has no effect"),
        ({"lr_period_steps": 5}, "lr_period_steps: has no effect"),
        ({"lr_scheduler": "cosine", "lr_power": 2}, "lr_power: has no effect"),
        ({"adam_weight_decay": 0.1}, "adam_weight_decay: has no effect"),
        ({"ema_decay": 0.9}, "ema_decay: has no effect"),
        ({"use_ema": True, "ema_device": "cpu"}, "ema_device: has no effect for an adapter"),
        ({"use_ema": True, "ema_cpu_only": True}, "ema_cpu_only: has no effect for an adapter"),
        ({"optimizer": "adamw_bf16"}, "fp32"),
        ({"gradient_accumulation_steps": 0}, "taken as 1"),
    ],
)
def test_what_is_odd_about_steps_is_said(written: dict[str, Any], said: str) -> None:
    assert any(said in warning for warning in notices_of(written))


def test_the_running_mean_is_read() -> None:
    written = {
        "use_ema": "true",
        "ema_decay": "0.9",
        "ema_warmup_steps": 3,
        "ema_update_interval": 2,
        "ema_device": "accelerator",
    }
    plan = import_small({**FULL, **written}).plan

    assert plan.identity.ema == EmaPlan(decay=0.9, warmup_steps=3, update_interval=2)
    assert plan.operation.ema_device == "accelerator"
    usual = import_small({**FULL, "use_ema": True}).plan
    assert usual.identity.ema == EmaPlan(decay=0.995, warmup_steps=0, update_interval=1)
    assert usual.operation.ema_device == "cpu"
    assert import_small({"use_ema": True}).plan.operation.ema_device == "accelerator"
    assert identity({"use_ema": "false"}).ema is None
    assert problems_of({**written, "ema_cpu_only": True}) == [("/config/ema_cpu_only", "conflict")]
    assert problems_of({"use_ema": True, "ema_decay": 1}) == [("/config/ema_decay", "bad_value")]
    rare = {"use_ema": True, "ema_update_interval": 11, "max_train_steps": 10}
    assert problems_of(rare) == [("/config/ema_update_interval", "bad_value")]
    assert identity({**rare, "max_train_steps": 11}).ema is not None


def test_one_gpu_trains_all_weights_without_deepspeed() -> None:
    alone = import_small(FULL).plan
    asked = import_small({**FULL, "zero_stage": 0}).plan
    many = import_small({**FULL, "world_size": 4}).plan

    assert (alone.operation.zero_stage, alone.identity.clip) == (
        None,
        Clip(method="value", limit=2),
    )
    assert (asked.operation.zero_stage, asked.identity.clip) == (0, Clip(method="norm", limit=2))
    assert (many.operation.zero_stage, many.identity.clip) == (
        "auto",
        Clip(method="norm", limit=2),
    )


@pytest.mark.parametrize(
    ("written", "pointer", "code"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1}, "/config/optimizer", "not_implemented"),
        ({"optimizer": "bnb-lion8bit-paged"}, "/config/optimizer", "not_implemented"),
    ],
)
def test_deepspeed_refuses_what_one_process_does(
    written: dict[str, Any], pointer: str, code: str
) -> None:
    assert problems_of({**FULL, **written, "zero_stage": 2}) == [(pointer, code)]
    import_small({**FULL, **written})


def test_deepspeed_clips_by_value_and_keeps_a_mean_too() -> None:
    written = {"grad_clip_method": "value", "use_ema": True, "ema_device": "accelerator"}

    plan = import_small({**FULL, **written, "zero_stage": 2}).plan

    assert plan.identity.clip == Clip(method="value", limit=2)
    assert plan.identity.ema is not None
    assert plan.operation.ema_device == "accelerator"


def test_an_optimizer_is_offloaded_from_the_shards_of_deepspeed() -> None:
    plan = import_small({**FULL, "zero_offload": "cpu"}).plan

    assert (plan.operation.zero_stage, plan.operation.zero_offload) == ("auto", "cpu")
    assert problems_of({**FULL, "zero_offload": "cpu", "zero_stage": 0}) == [
        ("/config/zero_offload", "conflict")
    ]
    assert "zero_offload: has no effect on an adapter." in notices_of({"zero_offload": "cpu"})
