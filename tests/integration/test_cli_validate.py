"""`reverie validate`: the plan of SimpleTuner's files, or all of their errors."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.connection import Invocation
from services.cli.program import app
from tests.support.validating import Answer, write
from tests.unit.config_examples import (
    SUBJECT,
    TINY_CONFIG,
)

ROOT = Path(__file__).parents[2]
FRESH = """
import sys
from services.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "diffusers", "transformers", "lycoris", "peft"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("config/lycoris_config.json", (256, 6_619_392)),
        ("lycoris_config.no-experts.json", (448, 15_147_456)),
    ],
)
@pytest.mark.parametrize("precision", ["int8-quanto", "no_change"])
def test_the_published_presets_have_their_sizes_whatever_the_precision(
    project: Path,
    validate: Callable[..., Answer],
    preset: str,
    sizes: tuple[int, int],
    precision: str,
) -> None:
    settings = (f"lycoris_config={preset}", f"base_model_precision={precision}")
    status, answer = validate(project, *(part for s in settings for part in ("--set", s)))

    assert status == 0
    assert (answer["trainable_modules"], answer["trainable_parameters"]) == sizes
    assert answer["steps"] == 10_000
    assert answer["errors"] == []
    assert [bucket["images"] for bucket in answer["buckets"]] == [1, 1]
    assert answer["memory"]["adapter_bytes"] == 4 * sizes[1]
    in_8_bits = "fp8" if precision == "int8-quanto" else "no_change"
    assert answer["matmul"] == {
        "CPU": "no_change",
        "cards before 8.0": "no_change",
        "8.0 to 8.8": "no_change",
        "8.9": "no_change",
        "9.0": in_8_bits,
        "cards after 9.0": "no_change",
    }
    assert answer["used_files"]["lycoris_config"].endswith(preset.rpartition("/")[2])


def test_a_fresh_process_needs_no_torch_and_prints_one_line(project: Path) -> None:
    command = [sys.executable, "-c", FRESH, "validate", "--config", str(project), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["trainable_modules"] == 256
    readable = subprocess.run(command[:-1], capture_output=True, text=True, cwd=ROOT, check=False)
    assert readable.returncode == 0, readable.stderr
    for words in (
        "256 modules, 6,619,392 parameters",
        "optimi-lion",
        "by value at 0.01",
        "no_change on CPU, cards before 8.0, 8.0 to 8.8, 8.9, cards after 9.0; fp8 on 9.0",
        "on a GPU as good as an unbroken run, but not bit for bit; see deterministic",
        "estimate",
        "Cards of capability 9;",
        "LARGEST BATCH",
        "80 GB",
        "all weights, transposed too",
        "all but modulation, captions",
    ):
        assert words in readable.stdout
    assert "lycoris_config.json" in readable.stderr


@pytest.mark.parametrize(
    ("settings", "on"),
    [
        (("base_model_matmul_precision=int8",), "8, 9 and 10"),
        (("base_model_matmul_precision=int8", "lora_type=standard",
          'peft_lora_target_modules=["experts.1.w2"]'), "9 and 10"),
        (("base_model_matmul_precision=fp8",), "8.9, 9 and 10"),
        (("base_model_matmul_precision=fp8", "lora_type=standard",
          'peft_lora_target_modules=["experts.1.w2"]'), "9 and 10"),
        (("base_model_precision=no_change",), "9 and 10"),
        (("base_model_precision=int8-quanto",), "9"),
    ],
)  # fmt: skip
def test_the_table_says_which_cards_it_is_for(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    on: str,
) -> None:
    monkeypatch.chdir(project)
    command = ["validate", "--config", str(project)]
    command += [part for each in settings for part in ("--set", each)]

    app(command, obj=Invocation(env={"REVERIE_HOME": str(project)}), standalone_mode=False)

    assert f"Cards of capability {on}; others" in capsys.readouterr().out


def test_a_run_that_fits_no_card_is_told_what_would_fit(
    project: Path, validate: Callable[..., Answer]
) -> None:
    wide = ("gradient_checkpointing=false", "train_batch_size=16")
    status, answer = validate(project, *(part for s in wide for part in ("--set", s)))

    assert status == 0
    assert [card["card_gib"] for card in answer["cards"]] == [80, 48, 24, 16, 12]
    assert {card["peak_estimate_bytes"] for card in answer["cards"]} == {None}
    refusals = [card["refusal"] for card in answer["cards"]]
    assert refusals[0].endswith("it fits with gradient_checkpointing true")
    assert refusals[1].endswith("it fits with train_batch_size 1")
    both = "it fits with gradient_checkpointing true and train_batch_size"
    assert all(both in refusal for refusal in refusals[2:])
    assert any(w.startswith("A card of 80 GB is too small") for w in answer["warnings"])


def test_full_rank_on_several_gpus_is_told_its_zero_stage_and_why(
    project: Path,
    validate: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(project / "multidatabackend.json", [SUBJECT])
    full = ("model_type=full", "world_size=8", "base_model_precision=no_change")
    settings = [part for each in full for part in ("--set", each)]

    status, answer = validate(project, *settings)

    assert (status, answer["errors"]) == (0, [])
    rows = {row["card_gib"]: row for row in answer["sharding"]}
    assert {gib: (rows[gib]["stage"], rows[gib]["offload"]) for gib in (80, 48)} == {
        80: (2, "none"),
        48: (3, "none"),
    }
    assert "ZeRO stage 2 would need" in rows[48]["reason"]
    monkeypatch.setenv("COLUMNS", "300")
    command = ["validate", "--config", str(project), *settings]
    app(command, obj=Invocation(env={"REVERIE_HOME": str(project)}), standalone_mode=False)
    shown = capsys.readouterr().out
    assert "by the lowest ZeRO stage that fits the cards" in shown
    assert all(row["reason"] in shown for row in rows.values())


def test_all_errors_are_reported_at_once_each_with_its_option(
    project: Path, validate: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    subject = {**SUBJECT, "crops": 1}
    write(project / "multidatabackend.json", [subject])
    wrong = ("optimiser=x", "user_prompt_library=none.json", "lr_scheduler=sine", "seed=x")
    arguments = [part for setting in wrong for part in ("--set", setting)]

    status, answer = validate(project, *arguments)

    assert status == 1
    assert answer["trainable_modules"] is answer["memory"] is answer["steps"] is None
    assert {(e["pointer"], e["code"]) for e in answer["errors"]} == {
        ("/config/user_prompt_library", "bad_file"),
        ("/config/optimiser", "unknown_option"),
        ("/config/lr_scheduler", "not_implemented"),
        ("/config/seed", "bad_value"),
        ("/data_backends/0/crops", "unknown_option"),
    }
    assert all(error.keys() == {"pointer", "code", "message"} for error in answer["errors"])
    by_pointer = {error["pointer"]: error["message"] for error in answer["errors"]}
    assert "optimizer" in by_pointer["/config/optimiser"]
    assert "none.json" in by_pointer["/config/user_prompt_library"]

    command = ["validate", "--config", str(project), "--set", "seed=x"]
    assert app(command, obj=Invocation(env={}), standalone_mode=False) == 1
    printed = capsys.readouterr().err
    assert f"{project}/multidatabackend.json /data_backends/0/crops" in printed
    assert f"{project}/config.json /config/seed" in printed


@pytest.mark.parametrize("content", ["[", '["no object"]', None])
def test_a_config_that_cannot_be_read_is_one_error(
    tmp_path: Path, validate: Callable[..., Answer], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    status, answer = validate(tmp_path)

    assert status == 1
    assert [(error["pointer"], error["code"]) for error in answer["errors"]] == [("", "bad_file")]


def test_a_base_model_is_found_by_name_by_folder_and_by_its_known_shape(
    project: Path, tmp_path: Path, validate: Callable[..., Answer]
) -> None:
    def modules(name: str, **env: str) -> tuple[int | None, str | None, list[str]]:
        small = ("resolution=256", f"pretrained_model_name_or_path={name}")
        arguments = [part for setting in small for part in ("--set", setting)]
        _, answer = validate(project, *arguments, **env)
        return (
            answer["trainable_modules"],
            answer["plan_digest"],
            [error["pointer"] for error in answer["errors"]],
        )

    write(tmp_path / "models/mine/transformer/config.json", TINY_CONFIG)
    write(tmp_path / "project/bases/other/transformer/config.json", TINY_CONFIG)
    write(tmp_path / "broken/transformer/config.json", {"num_layers": "x"})
    description = {"name": "mine", "digest": "d" * 64, "files": {}}
    write(tmp_path / "models/mine/reverie-base.json", description)
    at = ["/config/pretrained_model_name_or_path"]

    count, digest, errors = modules("mine", REVERIE_MODELS_DIR=str(tmp_path / "models"))
    assert (count, errors) == (16, [])
    assert digest is not None
    assert modules("bases/other") == (16, None, [])
    assert modules("hidream-tiny") == (24, None, [])
    assert modules("hidream-wide") == (16, None, [])
    assert modules("owner/a-copy") == (256, None, [])
    assert modules("broken") == (None, None, at)
    assert modules("hidream-tinny") == (None, None, at)
    assert modules("mine", REVERIE_MODELS_DIR=str(tmp_path / "nowhere")) == (None, None, at)


def test_a_setting_without_a_value_is_wrong_usage_and_help_has_examples(project: Path) -> None:
    command = [sys.executable, "-m", "services.cli.main", "validate"]
    wrong = subprocess.run(
        [*command, "--config", str(project), "--set", "seed"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    helped = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert wrong.returncode == 2
    assert "reverie validate --config config" in helped.stdout
