"""deepspeed_config names zero_stage, in every form in which it is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.connection import CommandError
from services.cli.documents import read_documents
from tests.unit.config_examples import import_small, problems_of
from tests.unit.deepspeed_examples import AGREEING, full
from trainer_core.config.plan import Clip, ZeroStage
from trainer_core.config.plan.problems import texts_of


def stage_of(config: dict[str, Any]) -> ZeroStage | None:
    return import_small(config, without=("lora_type",)).plan.operation.zero_stage


@pytest.mark.parametrize(
    ("written", "stage"),
    [
        ({"zero_optimization": {"stage": 0}}, 0),
        ({"zero_optimization": {"stage": "1"}}, 1),
        ({"zero_optimization": {"stage": 3}}, 3),
        ({"zero_optimization": {"stage": "auto"}}, "auto"),
        ({"zero_stage": 1}, 1),
        ({"zero_optimization": {"stage": "auto"}, "zero_stage": 3}, 3),
        ({"gradient_clipping": "auto"}, "auto"),
        (json.dumps({"zero_optimization": {"stage": 3}}), 3),
        ("zero1", 1),
        ("ZeRO3", 3),
        ("none", "auto"),  # nothing is asked for: several GPUs
        ("", "auto"),
        ("{}", "auto"),
    ],
)
def test_it_names_the_stage(written: Any, stage: ZeroStage) -> None:
    assert stage_of(full(written)) == stage


def test_on_one_gpu_it_asks_for_deepspeed() -> None:
    assert stage_of(full({"zero_optimization": {"stage": 2}}, num_processes=1)) == 2
    assert stage_of(full(None, num_processes=1)) is None


@pytest.mark.parametrize("written", [{}, "{}", " { } "])
def test_an_empty_one_asks_for_nothing_and_is_told(written: Any) -> None:
    imported = import_small(full(written, num_processes=1), without=("lora_type",))

    assert imported.plan.operation.zero_stage is None
    line = "deepspeed_config: has no effect because it is empty."
    assert line in texts_of(imported.notices, "no_effect")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"a": 1,', "cannot be read as JSON, at line 1, column 9: "),
        ('{\n"a": 1\n"b": 2}', "cannot be read as JSON, at line 3, column 1: "),
        ('{"bf16": {"enabled": 1, "enabled": 2}}', "has enabled twice in one object: keep one."),
        ("{'zero_stage': 1, 'zero_stage': 2}", "has zero_stage twice in one object: keep one."),
        ("{'1': 1, 1: 2}", "has 1 twice in one object: keep one."),
        ('{"gradient_clipping": NaN}', "has a number that is NaN, infinite or too long."),
        ('{"steps_per_print": ' + "1" * 5000 + "}", "has a number that is NaN, infinite"),
        ('{"a":' * 9_000, "is nested too deep."),
        ("zero9", "has to be zero1, zero2 or zero3, not zero9."),
        ("ZeRO-3", "has to be zero1, zero2 or zero3, not ZeRO-3."),
        ("[1]", "has to be an object, as JSON text or in a file too, or zero1, zero2 or zero3."),
    ],
)
def test_a_text_that_is_no_configuration_is_told_why(written: str, said: str) -> None:
    for source in ("http", "local"):
        backends = [{"id": "c", "caption_strategy": "filename", "instance_data_dir": "c"}]
        ((_, message),) = problems_of(
            full(written), messages=True, without=("lora_type",), source=source, backends=backends
        )
        assert message.startswith(f"deepspeed_config {said}")


def test_clipping_is_by_norm_unless_value_is_written() -> None:
    written = full({"gradient_clipping": 1.0})

    usual = import_small(written, without=("lora_type",)).plan.identity.clip
    by_value = import_small({**written, "grad_clip_method": "value"}, without=("lora_type",))

    assert usual == Clip(method="norm", limit=1.0)
    assert by_value.plan.identity.clip == Clip(method="value", limit=1.0)
    line = "grad_clip_method: value acts; SimpleTuner's DeepSpeed clips the norm, if at all."
    assert line in texts_of(by_value.notices, "differs")


def test_two_stages_are_a_conflict() -> None:
    written = full({"zero_optimization": {"stage": 3}}, zero_stage=2)

    ((_, said),) = problems_of(written, messages=True, without=("lora_type",))

    assert "zero_optimization.stage is 3 there, and zero_stage is 2" in said


def test_the_rules_of_deepspeed_hold_for_it() -> None:
    prodigy = {"optimizer": "prodigy", "learning_rate": 1}
    written = full({"zero_optimization": {"stage": 2}}, num_processes=1, **prodigy)

    assert problems_of(written, without=("lora_type",)) == [
        ("/config/optimizer", "not_implemented")
    ]


@pytest.mark.parametrize("written", [AGREEING, {"anything": 1}, "ds.json", "zero2"])
def test_an_adapter_trains_without_deepspeed(written: Any) -> None:
    imported = import_small({"deepspeed_config": written})

    assert imported.plan.operation.zero_stage is None
    assert texts_of(imported.notices, "no_effect") == [
        (
            "deepspeed_config: has no effect on an adapter: each GPU holds the base whole, without "
            "DeepSpeed."
        )
    ]


def test_the_service_reads_no_file_and_a_wrong_value_is_told() -> None:
    def told(written: Any, source: str) -> list[tuple[str, str]]:
        backends = [{"id": "c", "caption_strategy": "filename", "instance_data_dir": "c"}]
        return problems_of(full(written), without=("lora_type",), source=source, backends=backends)

    assert told("config/ds.json", "http") == [("/config/deepspeed_config", "refused")]
    for wrong in ("config/ds.json", "{not json", "[1]", [1], 3, True):
        assert told(wrong, "local") == [("/config/deepspeed_config", "bad_value")]


def test_hostile_configurations_are_bounded() -> None:
    many = {f"key{n}": n for n in range(10_000)}
    ((_, said),) = problems_of(full(many), messages=True, without=("lora_type",))
    assert said == "deepspeed_config has more than 300 entries."

    odd = '{"a\\u0000\\ud800": 1}'
    ((_, said),) = problems_of(full(odd), messages=True, without=("lora_type",))
    assert said.isascii()
    assert "\0" not in said
    signs = "{'a': " + "-" * 40_000 + "1}"
    for hostile in ('{"a":' * 9_000, "{'a':" * 9_000, signs, "{" * 10**6, "{1: {2}}"):
        found = problems_of(full(hostile), without=("lora_type",))
        assert found == [("/config/deepspeed_config", "bad_value")]


@pytest.mark.parametrize("known", ["tensorboard", "zenflow"])
@pytest.mark.parametrize("prefix", ["x.", "\0.", "\ud800.", "a" * 40_000 + "."])
@pytest.mark.parametrize("inside", [True, False])
def test_a_name_that_only_ends_as_a_known_one_is_not_known(
    known: str, prefix: str, inside: bool
) -> None:
    entry = {prefix + known: 1}
    written = json.dumps({"zero_optimization": entry} if inside else entry)

    ((_, said),) = problems_of(full(written), messages=True, without=("lora_type",))

    assert " is not read here." in said
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 200


def test_a_text_that_is_too_long_is_told_so() -> None:
    written = json.dumps({"comment": "a" * 60_000})

    ((_, said),) = problems_of(full(written), messages=True, without=("lora_type",))

    assert said == "deepspeed_config is longer than 50000 characters: take entries out."


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    options = {
        "--model_type": "full",
        "--deepspeed_config": "config/ds.json",
        "data_backend_config": "backends.json",
    }
    (folder / "config.json").write_text(json.dumps(options))
    (folder / "backends.json").write_text("[]")
    return folder


def test_the_command_line_reads_the_file(config_dir: Path) -> None:
    (config_dir / "ds.json").write_text('{"zero_optimization": {"stage": 3}, /* none */}')

    documents = read_documents(config_dir, {}, config_dir, {})

    content = documents.body["config"]["--deepspeed_config"]
    assert content == {"zero_optimization": {"stage": 3}}
    assert ("deepspeed_config", config_dir / "ds.json") in [
        (each.option, each.path) for each in documents.used
    ]


def test_a_file_that_is_missing_or_no_object_is_told(config_dir: Path) -> None:
    with pytest.raises(CommandError, match=r"deepspeed_config names config/ds\.json"):
        read_documents(config_dir, {}, config_dir, {})
    (config_dir / "ds.json").write_text("[]")
    with pytest.raises(CommandError, match="has to hold an object"):
        read_documents(config_dir, {}, config_dir, {})
    (config_dir / "ds.json").write_text('"zero2"')
    with pytest.raises(CommandError, match=r"ds\.json holds \"zero2\".*deepspeed_config itself"):
        read_documents(config_dir, {}, config_dir, {})
    with pytest.raises(CommandError, match=f"names \\., and {config_dir.parent} is a folder"):
        read_documents(config_dir, {"deepspeed_config": "."}, config_dir, {})


def test_an_adapter_needs_no_such_file(config_dir: Path) -> None:
    documents = read_documents(config_dir, {"model_type": "lora"}, config_dir, {})

    assert documents.body["config"]["--deepspeed_config"] == "config/ds.json"
