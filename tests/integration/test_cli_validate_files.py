"""`reverie validate`: unusual files, folders and base models, and its warnings."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.cli.connection import Invocation
from services.cli.documents import parse_settings
from services.cli.plan_report import Report, report_on
from services.cli.program import app
from tests.support.adapter_bytes import ONE_LORA, lora_bytes
from tests.unit.config_examples import SMALL_CONFIG, SMALL_LYCORIS, TINY_CONFIG
from trainer_core.base_models.known import FLAVOURS
from trainer_core.base_models.obtain import find_base

CONFIG = {**SMALL_CONFIG, "lycoris_config": "ly.json", "data_backend_config": "b.json"}
BACKEND = {"id": "a", "caption_strategy": "filename", "instance_data_dir": "pics"}


def report(folder: Path, *settings: str, backends: Any = (BACKEND,), **config: Any) -> Report:
    """The report on a small run; an option that is None is not written."""
    written = {name: value for name, value in {**CONFIG, **config}.items() if value is not None}
    bodies = {"config": written, "ly": SMALL_LYCORIS, "b": list(backends)}
    for name, body in bodies.items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    return report_on(
        folder,
        parse_settings(settings),
        working_dir=folder,
        env={"REVERIE_HOME": str(folder / "home")},
        on_progress=lambda *_: None,
    )


def pointers(found: Report) -> list[str]:
    return [error.pointer for error in found.errors]


def picture(folder: Path, size: tuple[int, int]) -> None:
    folder.mkdir()
    Image.new("RGB", size).save(folder / "p.png")


def test_a_backend_with_a_number_as_its_id_is_scanned(tmp_path: Path) -> None:
    picture(tmp_path / "7", (128, 128))
    found = report(tmp_path, backends=[{**BACKEND, "id": 5, "instance_data_dir": 7}])

    assert [survey.backend.id for survey in found.surveys] == ["5"]


def test_memory_is_counted_for_the_largest_possible_image(tmp_path: Path) -> None:
    picture(tmp_path / "pics", (128, 128))
    small = {**BACKEND, "resolution": 64}
    other = {**BACKEND, "id": "b", "instance_data_dir": "elsewhere", "resolution": 256}

    def activations(*backends: Any) -> int:
        memory = report(tmp_path, backends=backends).memory
        assert memory is not None
        return memory.activations_estimate_bytes

    assert activations(small) < activations(small, other)
    assert activations(small, other) == activations(other)


@pytest.mark.parametrize(
    ("option", "is_error"),
    [
        ("pretrained_model_name_or_path", True),
        ("user_prompt_library", True),
        ("lycoris_config", True),
        ("instance_data_dir", False),
    ],
)
def test_a_path_that_is_too_long_hides_no_other_error(
    tmp_path: Path, option: str, is_error: bool
) -> None:
    long = "a/" * 3000 + "b" * 300
    config = {option: long} if is_error else {}
    backend = BACKEND if is_error else {**BACKEND, option: long}

    found = report(tmp_path, "optimizer=foo", backends=[backend], **config)

    assert set(pointers(found)) == {"/config/optimizer", *(f"/config/{name}" for name in config)}
    if not is_error:
        (missing,) = report(tmp_path, backends=[backend]).errors
        assert missing.pointer == "/data_backends/0/instance_data_dir"
        assert "a: instance_data_dir names a/a/" in missing.message


def test_notices_are_reported_beside_errors(tmp_path: Path) -> None:
    found = report(tmp_path, "optimizer=foo", "seed=-1")

    assert pointers(found) == ["/config/optimizer"]
    assert any("random seed" in notice.message for notice in found.notices)


def test_the_usual_lycoris_config_is_found_where_none_is_named(tmp_path: Path) -> None:
    missing = report(tmp_path, lycoris_config=None)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "lycoris_config.json").write_text(json.dumps(SMALL_LYCORIS))
    found = report(tmp_path, lycoris_config=None)

    assert pointers(missing) == ["/config/lycoris_config"]
    assert found.trainable_modules == 24
    assert any(file.option == "lycoris_config" for file in found.used)
    assert not any(
        file.option == "lycoris_config"
        for file in report(tmp_path, lycoris_config=None, lora_type="standard").used
    )


def test_pointers_keep_dashes_where_the_base_model_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "transformer"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    dashed = {"pretrained_model_name_or_path": None, "--pretrained_model_name_or_path": "broken"}

    assert pointers(report(tmp_path, **dashed, **{"--optimizr": 1})) == [
        "/config/--pretrained_model_name_or_path",
        "/config/--optimizr",
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [("nothing", "bad_value"), ("no/such/folder", "bad_value"), ("empty", "bad_file")],
)
def test_a_name_that_means_no_model_is_one_error_and_hides_no_other(
    tmp_path: Path, name: str, code: str
) -> None:
    (tmp_path / "empty").mkdir()
    errors = report(tmp_path, "optimizer=foo", pretrained_model_name_or_path=name).errors

    assert [(error.pointer, error.code) for error in errors] == [
        ("/config/pretrained_model_name_or_path", code),
        ("/config/optimizer", "bad_value"),
    ]
    assert str(tmp_path / name) in errors[0].message


def test_a_local_folder_of_the_default_name_is_the_base_model_as_in_a_run(tmp_path: Path) -> None:
    transformer = tmp_path / FLAVOURS["full"] / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text(json.dumps(TINY_CONFIG))
    resolved = report(tmp_path, pretrained_model_name_or_path=None)
    env = {"REVERIE_HOME": str(tmp_path / "home")}

    assert resolved.trainable_modules == 16
    found = find_base(FLAVOURS["full"], env=env, folders=[tmp_path])
    assert found.transformer_config == TINY_CONFIG


def test_a_number_is_no_path(tmp_path: Path) -> None:
    (error,) = report(tmp_path, "data_backend_config=5").errors

    assert error.pointer == "/config/data_backend_config"
    assert "has to be a path, not 5" in error.message


@pytest.mark.parametrize("name", ["models/mine", "black-forest-labs/FLUX.1-dev"])
def test_an_unknown_hub_name_is_assumed_with_a_warning_that_lists_the_places(
    tmp_path: Path, name: str
) -> None:
    found = report(tmp_path, pretrained_model_name_or_path=name)

    assert any(str(tmp_path / name) in w and "assumed" in w for w in found.warnings)


def test_settings_of_text_stay_text() -> None:
    read = parse_settings(["validation_prompt=true", "tracker_run_name=1e5", "seed=7"])

    assert read == {"validation_prompt": "true", "tracker_run_name": "1e5", "seed": 7}


def test_a_prompt_library_can_be_switched_off(tmp_path: Path) -> None:
    picture(tmp_path / "pics", (128, 128))
    for nothing in ("false", "None"):
        found = report(tmp_path, user_prompt_library=nothing)
        assert not found.errors
        assert not any(notice.option == "user_prompt_library" for notice in found.notices)


def test_a_run_without_a_token_would_publish_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # The library reads the place of its token once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    picture(tmp_path / "pics", (128, 128))
    asked = {"push_to_hub": True, "hub_model_id": "ada/cats"}

    def told(**config: Any) -> list[str]:
        return [each for each in report(tmp_path, **config).warnings if "token" in each]

    (line,) = told(**asked)
    assert line == (
        "push_to_hub: this machine has no token for the Hugging Face Hub, so a run here "
        "publishes nothing to ada/cats. Set HF_TOKEN or run `hf auth login`."
    )
    assert told() == []
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert told(**asked) == []


def write_lora(file: Path, rank: int) -> Path:
    """An adapter of one linear of the published shape."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(lora_bytes(rank, out_features=2560))
    return file


def test_the_adapter_that_a_run_starts_from_is_checked_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"pretrained_model_name_or_path": None, **ONE_LORA}
    picture(tmp_path / "pics", (128, 128))
    file = write_lora(tmp_path / "old" / "pytorch_lora_weights.safetensors", rank=4)

    found = report(tmp_path, **model, init_lora="old")

    assert found.errors == ()
    assert [used.path for used in found.used if used.option == "init_lora"] == [file]
    assert found.plan is not None
    assert found.plan.identity.start_adapter is not None
    invocation = Invocation(env={"REVERIE_HOME": str(tmp_path / "home")})
    app(["validate", "--config", str(tmp_path)], obj=invocation, standalone_mode=False)
    shown = capsys.readouterr().out
    assert f"{file} (SHA-256 {found.plan.identity.start_adapter.sha256[:12]}…), at step 0" in shown

    missing = report(tmp_path, "optimizer=foo", **model, init_lora="owner/name").errors
    assert [(error.pointer, error.code) for error in missing] == [
        ("/config/optimizer", "bad_value"),
        ("/config/init_lora", "bad_value"),
    ]
    assert "download the file and name it" in missing[1].message
    write_lora(file, rank=8)
    (other,) = report(tmp_path, **model, **{"--init_lora": str(file)}).errors
    assert (other.pointer, other.code) == ("/config/--init_lora", "conflict")
    assert other.message == (
        f"init_lora: {file} does not fit the adapter of this run: its rank is 8 and lora_rank is "
        "4: set lora_rank to it."
    )
