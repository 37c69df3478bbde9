"""Options that are not built: at which values they ask for nothing, and which never act at all."""

from typing import Any, Final

import pytest

from tests.unit.config_examples import notices_of, problems_of
from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.presets import OVERRIDE, PRESET
from trainer_core.config.simpletuner.verdicts import Verdict

TABLES: Final = (OPTIONS, BACKEND_OPTIONS, LYCORIS.rows, PRESET.rows, OVERRIDE.rows)
TWO_NEUTRAL: Final = {
    "start_epoch": (0, 1),
}
"""The options that ask for nothing at two values."""
NOT_BUILT: Final = [
    (name, verdict)
    for table in TABLES
    for name, verdict in table.items()
    if verdict.kind in ("not_implemented", "refused")
]


@pytest.mark.parametrize(("name", "verdict"), NOT_BUILT)
def test_an_option_that_is_not_built_has_one_neutral_value_of_its_own_type(
    name: str, verdict: Verdict
) -> None:
    if len(verdict.off) > 1:
        assert verdict.off == TWO_NEUTRAL[name]
    if verdict.type == "bool":
        assert verdict.off == (False,)
    if verdict.type in ("int", "float"):
        assert all(type(off) in (int, float) for off in verdict.off)


@pytest.mark.parametrize(
    "asking",
    [
        {"distillation_method": "no"},
        {"layer_freeze_strategy": "inference"},
        {"publishing_config": "stop"},
        {"pretrained_unet_subfolder": "transformer"},
    ],
)
def test_what_is_neutral_to_one_option_is_not_to_another(asking: dict[str, Any]) -> None:
    (name,) = asking
    assert [pointer for pointer, _ in problems_of(asking)] == [f"/config/{name}"]


@pytest.mark.parametrize(
    "inert",
    [
        {"adam_beta1": 0.9, "adam_beta2": "0.999"},
        {"dynamo_backend": "no", "layer_freeze_strategy": "none", "disk_low_action": "stop"},
        {"prediction_type": "flow_matching"},
    ],
)
def test_the_default_of_an_option_that_is_not_built_is_accepted(inert: dict[str, Any]) -> None:
    notices_of(inert)


@pytest.mark.parametrize(
    "inert",
    [
        {"scheduled_sampling_max_step_offset": 0, "scheduled_sampling_prob_end": 0.7},
        {"scheduled_sampling_reflexflow": True},
        {"snr_gamma": 5},
        {"offset_noise": True},
        {"dynamo_backend": "no", "dynamo_mode": "max-autotune"},
        {"enable_group_offload": False, "group_offload_blocks_per_group": 4},
        {"group_offload_type": "leaf_level"},
        {"input_perturbation": 0, "input_perturbation_steps": 100},
        {"attention_mechanism": "sageattention"},
    ],
)
def test_what_never_acts_alone_is_reported_and_not_refused(inert: dict[str, Any]) -> None:
    *_, name = inert
    assert any(warning.startswith(f"{name}: ") for warning in notices_of(inert))


def test_rollout_and_perturbation_are_refused_where_they_act() -> None:
    asking = {"scheduled_sampling_max_step_offset": 10, "input_perturbation": 0.1}
    assert {pointer for pointer, _ in problems_of(asking)} == {f"/config/{name}" for name in asking}
