"""Every name that SimpleTuner reads, or once read, has a verdict."""

import inspect
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
from lycoris.wrapper import VALID_PRESET_KEYS, create_lycoris, deprecated_arg_dict

from tests.support.simpletuner_names import names_in, snapshot
from tests.unit.config_examples import import_small, problems_of
from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.environment_names import BITFIT, ENVIRONMENT_NAMES
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.presets import PRESET
from trainer_core.config.simpletuner.verdicts import Option

SNAPSHOT: Final = json.loads(
    (Path(__file__).parents[1] / "golden/simpletuner_names.json").read_text()
)
NEWEST: Final = SNAPSHOT["versions"][-1]
OPTION_NAMES: Final[dict[str, dict[str, Any]]] = SNAPSHOT["options"]


def test_the_snapshot_names_its_versions_and_its_date() -> None:
    assert NEWEST == "4.10.1"
    assert len(SNAPSHOT["versions"]) >= 40
    assert SNAPSHOT["date"] >= "2026-11-29"
    assert len(OPTION_NAMES) > 600
    assert len(SNAPSHOT["backend_keys"]) > 130


def test_every_option_has_a_verdict() -> None:
    assert sorted(OPTION_NAMES.keys() - OPTIONS.keys()) == []


def test_every_name_of_config_env_is_read() -> None:
    named = {name: facts["option"] for name, facts in SNAPSHOT["environment"].items()}

    assert len(named) > 120
    assert named.pop(BITFIT) == "layer_freeze_strategy=bitfit"
    assert named == ENVIRONMENT_NAMES


def test_every_key_of_a_data_backend_has_a_verdict() -> None:
    assert sorted(SNAPSHOT["backend_keys"].keys() - BACKEND_OPTIONS.keys()) == []


def test_every_key_that_lycoris_reads_has_a_verdict() -> None:
    source = inspect.getsource(create_lycoris)
    read = {*re.findall(r"kwargs\.get\(\"(\w+)\"", source), *deprecated_arg_dict}

    assert len(read) > 20
    assert sorted(read - LYCORIS.rows.keys()) == []
    assert sorted(set(VALID_PRESET_KEYS) - PRESET.rows.keys()) == []


def test_what_is_said_to_be_removed_is_in_no_version_of_today() -> None:
    removed = [name for name, row in OPTIONS.items() if row.kind == "removed"]

    assert removed
    assert [name for name in removed if OPTION_NAMES[name]["last"] == NEWEST] == []


def test_second_names_act_like_the_first() -> None:
    aliases = {
        name: facts["alias_of"] for name, facts in OPTION_NAMES.items() if "alias_of" in facts
    }

    assert {"checkpointing_steps", "validation_steps"} <= aliases.keys()
    for name, first in aliases.items():
        row, other = OPTIONS[name], OPTIONS[first]
        assert (row.kind, row.type) == (other.kind, other.type), name
        if isinstance(other, Option):
            assert isinstance(row, Option)
            assert row.alias_of == first, name


@pytest.mark.parametrize(
    ("older", "newer", "value"),
    [
        ("flux_schedule_shift", "flow_schedule_shift", 1.5),
        ("flux_schedule_auto_shift", "flow_schedule_auto_shift", "true"),
        ("flow_matching_sigmoid_scale", "flow_sigmoid_scale", "0.5"),
        ("flux_use_uniform_schedule", "flow_use_uniform_schedule", True),
        ("save_total_limit", "checkpoints_total_limit", 2),
        ("checkpointing_steps", "checkpoint_step_interval", 7),
    ],
)
def test_names_of_older_versions_act(older: str, newer: str, value: object) -> None:
    plain = import_small({"seed": 1}).plan
    plan = import_small({"seed": 1, older: value}).plan

    assert plan == import_small({"seed": 1, newer: value}).plan
    assert plan != plain
    both = {older: value, newer: value}
    assert import_small({"seed": 1, **both}).plan == plan
    other: dict[object, object] = {1.5: 2, "true": False, "0.5": 1, True: 0}
    different = {older: value, newer: other.get(value, 3)}
    assert problems_of({"seed": 1, **different}) == [(f"/config/{newer}", "conflict")]


def test_names_are_read_from_an_archive(tmp_path: Path) -> None:
    wheel = tmp_path / "simpletuner-9.1-py3-none-any.whl"
    fields = (
        'r._add_field(ConfigField(name="a", arg_name="--a", aliases=["--b"], default_value=2,'
        ' choices=[{"value": "x"}]))\n'
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("simpletuner/server/field_registry/sections/x.py", fields)
        archive.writestr(
            "simpletuner/helpers/configuration/cmd_args.py",
            'parser.add_argument("--old", "-o", default=3)\n',
        )
        archive.writestr(
            "simpletuner/helpers/configuration/env_file.py", 'M = {"SEED": "--seed"}\n'
        )
        archive.writestr(
            "simpletuner/helpers/data_backend/factory.py",
            'backend.get("id"); other.get("no"); "repeats" in backend; backend["type"]\n',
        )

    found = names_in(wheel)

    assert found.options == {
        "a": {"default": 2, "choices": ["x"]},
        "b": {"alias_of": "a"},
        "old": {"default": 3},
        "seed": {},
    }
    assert found.backend_keys == {"id", "repeats", "type"}
    assert found.environment == {"SEED": "seed"}
    assert snapshot([wheel])["options"]["old"] == {"default": 3, "last": "9.1"}
