"""A refused checkpoint names options as the user writes them."""

import re
from typing import Any

import pytest

from tests.integration.plan_fields.registry import leaf_fields
from tests.unit.config_examples import import_small
from trainer_core.checkpoint.differences import differences
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.field_options import OPTIONS
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS as RUN_OPTIONS

IDENTITY: Any = import_small().plan.guarded_identity()
OWN_WORDS = {
    "gradient_accumulation_steps times num_processes",
    "the data backends",
    "the order of samples",
}


def changed(path: str, value: Any) -> Any:
    """The identity with one value replaced, or added."""
    body: Any = import_small().plan.guarded_identity()
    *names, last = path.split(".")
    at = body
    for name in names:
        at = at[int(name)] if name.isdigit() else at[name]
    at[last] = value
    return body


def test_every_field_of_the_identity_has_an_option_and_every_entry_a_field() -> None:
    leaves = [leaf for leaf in leaf_fields(Plan) if leaf.startswith("identity.")]
    paths = [re.sub(r"\(\w+\)|\[\d*\]", "", leaf).removeprefix("identity.") for leaf in leaves]

    # One option decides all fields of these.
    own = [path for path in paths if not path.startswith(("base.", "adapter.modules."))]
    assert [path for path in own if path not in OPTIONS] == []
    groups = {path.rpartition(".")[0] for path in paths}
    assert [path for path in OPTIONS if path not in {*paths, *groups}] == []


def test_every_option_is_one_that_is_read() -> None:
    known = {*RUN_OPTIONS, *BACKEND_OPTIONS, *LYCORIS.rows, *OWN_WORDS}

    named = [name for text in OPTIONS.values() for name in text.split(" or ")]
    assert [name for name in named if name not in known] == []


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("seed", 7, "seed: 42 here, 7 in the checkpoint"),
        ("optimizer.learning_rate", 0.5, "learning_rate: 0.0001 here, 0.5 in the checkpoint"),
        ("optimizer.eps", 0.5, "optimizer_config (eps): 1e-08 here, 0.5 in the checkpoint"),
        ("micro_batch_size", 9, "train_batch_size: 4 here, 9 in the checkpoint"),
        ("backends.0.crop", True, "data backend cats, crop: false here, true in the checkpoint"),
        ("backends.0.id", "dogs", "data backend cats: only here"),
        ("schedule.newer", 1, "schedule.newer: absent here, 1 in the checkpoint"),
        ("ema", {"decay": 0.9}, "use_ema: none here, set in the checkpoint"),
        ("start_adapter", {"sha256": "f"}, "init_lora: absent here, set in the checkpoint"),
        ("newer", "x", "newer: absent here, x in the checkpoint"),
    ],
)
def test_a_field_is_named_by_its_option(path: str, value: Any, text: str) -> None:
    assert differences(IDENTITY, changed(path, value))[0] == text


def test_an_option_of_the_adapter_is_named_once_and_not_for_each_module() -> None:
    here, there = changed("seed", 42), changed("adapter.factor", 7)
    for module in there["adapter"]["modules"]:
        module["factor"] = 7

    (text,) = differences(here, there)
    assert text == f"factor: {here['adapter']['factor']} here, 7 in the checkpoint"
    del there["adapter"]["modules"][0]
    there["adapter"]["factor"] = here["adapter"]["factor"]
    path = here["adapter"]["modules"][0]["path"]
    assert differences(here, there)[0] == f"module {path}: only here"
    assert "apply_preset (factor): " in differences(here, there)[1]


def test_another_kind_of_training_is_named_without_its_fields() -> None:
    there = changed("model_type", "full") | {"adapter": None}

    assert differences(IDENTITY, there) == ["model_type: lokr here, full in the checkpoint"]


def test_another_adapter_to_start_from_is_named_without_its_digest() -> None:
    here, there = (changed("start_adapter", {"sha256": letter * 64}) for letter in "ab")

    text = "init_lora: another file here than in the checkpoint"
    assert differences(here, there) == [text]


def test_the_base_model_is_left_to_its_files() -> None:
    assert differences(IDENTITY, changed("base.digest", "f" * 64)) == []
