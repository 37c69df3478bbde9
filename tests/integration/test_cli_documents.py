"""Where `reverie runs submit` finds SimpleTuner's files, and where commands find the service."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.connection import Address, CommandError, find_address
from services.cli.documents import parse_settings, read_documents
from services.cli.run_sources import tell_before_sending
from trainer_core.errors import DocumentError

EXAMPLES = Path(__file__).parents[2] / "examples"


def write(path: Path, body: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    return path


def test_the_demo_is_found_by_base_name(tmp_path: Path) -> None:
    documents = read_documents(EXAMPLES / "demo", {}, tmp_path, {})
    assert set(documents.body) == {"config", "lycoris_config", "data_backends"}
    assert [file.path.name for file in documents.used] == [
        "config.json",
        "lycoris_config.json",
        "multidatabackend.json",
    ]


@pytest.mark.parametrize(
    "place",
    ["project/conf/backends.json", "project/config/conf/backends.json", "cwd/conf/backends.json"],
)
def test_relative_names_are_tried_in_order(tmp_path: Path, place: str) -> None:
    config = write(
        tmp_path / "project/config/config.json", {"--data_backend_config": "conf/backends.json"}
    )
    wanted = write(tmp_path / place, [{"id": "right"}])
    write(tmp_path / "project/config/backends.json", [{"id": "wrong"}])
    documents = read_documents(config, {}, tmp_path / "cwd", {})
    assert documents.body["data_backends"] == [{"id": "right"}]
    assert documents.used[-1].path == wanted


def test_a_missing_file_names_every_place(tmp_path: Path) -> None:
    config = write(tmp_path / "c" / "config.json", {"data_backend_config": "x/b.json"})
    with pytest.raises(CommandError) as caught:
        read_documents(config, {}, tmp_path / "cwd", {})
    for place in (tmp_path / "x/b.json", tmp_path / "c/x/b.json", tmp_path / "c/b.json"):
        assert str(place) in str(caught.value)


def test_image_folders_are_found_from_the_working_directory() -> None:
    documents = read_documents(EXAMPLES / "demo", {}, EXAMPLES.parent, {})

    photos = EXAMPLES / "photos"
    assert {backend: folder.resolve() for backend, folder in documents.folders.items()} == {
        "photos": (photos / "train").resolve(),
        "held-out": (photos / "held_out").resolve(),
    }


def test_backends_without_images_are_skipped_with_or_without_dashes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    here = {"--instance_data_dir": "photos"}
    backends = [
        {"--id": "a", **here},
        {"id": "off", "disabled": 1, **here},
        {"id": "off too", "--disable": "yes", **here},
        {"id": "text", "--dataset_type": "text_embeds", **here},
    ]
    write(tmp_path / "b.json", backends)
    config = write(tmp_path / "config.json", {"data_backend_config": "b.json"})

    assert set(read_documents(config, {}, tmp_path, {}).folders) == {"a"}


@pytest.mark.parametrize("name", ["words.txt", "words.json"])
def test_a_file_of_caption_filters_is_sent_as_a_list(tmp_path: Path, name: str) -> None:
    words = tmp_path / "config" / name
    config = write(tmp_path / "config/config.json", {"data_backend_config": "b.json"})
    write(
        tmp_path / "config/b.json",
        [{"id": "t", "dataset_type": "text_embeds", "--caption_filter_list": f"config/{name}"}],
    )
    with pytest.raises(CommandError, match=r"/0/--caption_filter_list.*in none of"):
        read_documents(config, {}, tmp_path, {})
    write(words, {"not": "a list"} if name.endswith("json") else "x")
    if name.endswith("json"):
        with pytest.raises(CommandError, match="list of texts"):
            read_documents(config, {}, tmp_path, {})
        write(words, ["arafed ", "s/a/b/"])
    else:
        words.write_bytes(b"arafed \r\n\r\ns/a/b/\n")

    documents = read_documents(config, {}, tmp_path, {})

    (cache,) = documents.body["data_backends"]
    assert cache["--caption_filter_list"] == ["arafed ", "s/a/b/"]
    assert documents.used[-1].path == words


def test_settings_replace_options_with_or_without_dashes(tmp_path: Path) -> None:
    write(tmp_path / "b.json", [])
    config = write(
        tmp_path / "config.json", {"--seed": 1, "data_backend_config": "b.json", "keep": "a"}
    )
    settings = parse_settings(["--seed=7", "optimizer=optimi-lion", "flag=true", "odd=NaN"])
    body = read_documents(config, settings, tmp_path, {}).body
    assert body["config"] == {
        "data_backend_config": "b.json",
        "keep": "a",
        "seed": 7,
        "optimizer": "optimi-lion",
        "flag": True,
        "odd": "NaN",
    }


def test_a_file_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    write(tmp_path / "b.json", {"id": "not a list"})
    config = write(tmp_path / "config.json", {"data_backend_config": "b.json"})
    with pytest.raises(CommandError, match=r"b\.json has to hold a list"):
        read_documents(config, {}, tmp_path, {})


@pytest.mark.parametrize("trained", [{"model_type": "full"}, {"lora_type": "standard"}, {}])
def test_a_lycoris_config_that_is_not_used_may_be_missing(
    tmp_path: Path, trained: dict[str, str]
) -> None:
    write(tmp_path / "b.json", [])
    options = {"data_backend_config": "b.json", "lycoris_config": "gone.json"}
    config = write(tmp_path / "config.json", options)

    assert "lycoris_config" not in read_documents(config, trained, tmp_path, {}).body
    with pytest.raises(CommandError, match="lycoris_config names"):
        read_documents(config, {"lora_type": "lycoris"}, tmp_path, {})


def test_missing_backends_are_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    config = write(tmp_path / "config.json", {"lycoris_config": "none"})
    with pytest.raises(CommandError, match="names no data_backend_config"):
        read_documents(config, {}, tmp_path, {})


def test_variables_are_replaced_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "cats").mkdir(parents=True)
    write(tmp_path / "b.json", [{"id": "cats", "instance_data_dir": "{env:ROOT}/{id}"}])
    config = write(
        tmp_path / "config.json", {"data_backend_config": "{env:FILE}.json", "seed": "{env:SEED}"}
    )
    env = {"ROOT": str(tmp_path / "data"), "FILE": "b", "SEED": "7"}

    documents = read_documents(config, {}, tmp_path, env)

    assert documents.folders == {"cats": tmp_path / "data" / "cats"}
    assert documents.body["config"] == {"data_backend_config": "b.json", "seed": "7"}
    tell_before_sending(documents)
    assert capsys.readouterr().err == "sent in {env:…}      FILE, ROOT, SEED\n"


@pytest.mark.parametrize(("name", "is_secret"), [
    ("HF_TOKEN", True), ("AWS_SECRET_ACCESS_KEY", True), ("WANDB_API_KEY", True),
    ("DB_PASSWORD", True), ("MYAPIKEY", True), ("KEYFRAMES", False), ("MONKEY_DIR", False),
    ("AUTHOR", False),
])  # fmt: skip
def test_a_secret_is_not_sent(tmp_path: Path, name: str, is_secret: bool) -> None:
    write(tmp_path / "b.json", [])
    options = {"data_backend_config": "b.json", "hub_model_id": f"{{env:{name}}}"}
    documents = read_documents(write(tmp_path / "config.json", options), {}, tmp_path, {name: "hu"})

    if not is_secret:
        tell_before_sending(documents)
        return
    with pytest.raises(CommandError) as caught:
        tell_before_sending(documents)
    assert f"/config/hub_model_id has {{env:{name}}}" in str(caught.value)
    assert "reverie secrets set" in str(caught.value)
    assert "hu;" not in str(caught.value)


def test_an_unset_variable_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "b.json", [{"id": "a", "instance_data_dir": "{env:NO_ROOT}/a"}])
    config = write(tmp_path / "config.json", {"data_backend_config": "b.json"})

    with pytest.raises(CommandError) as caught:
        read_documents(config, {}, tmp_path, {})

    assert str(caught.value) == (
        f"{tmp_path}/b.json, /data_backends/0/instance_data_dir: {{env:NO_ROOT}}: the environment "
        "variable NO_ROOT is not set. Set it, or write the value."
    )


ENV = """
export MODEL_TYPE=lora
export TRAINING_SEED=1
export DATALOADER_CONFIG="b.json"
export TRAINER_EXTRA_ARGS="--seed=7 --validation_prompt 'a cat' --use_ema"
export USE_BITFIT=true
export HF_HOME=/models EMPTY
""".replace(" EMPTY", "")
TOML = """
model_type = "full"
"data_backend_config" = "b.json"
seed = 3
"""


def folder_of(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "config"
    write(folder / "b.json", [])
    for suffix, text in files.items():
        (folder / f"config.{suffix}").write_text(text)
    return folder


def test_options_come_from_config_env(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, env=ENV)

    documents = read_documents(folder, {"seed": 9}, tmp_path, {})

    assert documents.body["config"] == {
        "model_type": "lora",
        "data_backend_config": "b.json",
        "validation_prompt": "a cat",
        "use_ema": "true",
        "layer_freeze_strategy": "bitfit",
        "seed": 9,
    }
    assert documents.used[0].path == folder / "config.env"
    assert documents.lines["use_ema"] == 5
    assert documents.notes == (
        f"{folder}/config.env: no option of SimpleTuner has these names: HF_HOME.",
    )
    assert read_documents(folder / "config.env", {}, tmp_path, {}).body["config"]["seed"] == "7"


def test_options_come_from_config_toml(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, toml=TOML, env="export ROOT=x\n")

    for config in (folder, folder / "config.toml"):
        documents = read_documents(config, {}, tmp_path, {})
        assert documents.body["config"] == {
            "model_type": "full",
            "data_backend_config": "b.json",
            "seed": 3,
        }
        assert not documents.notes


def test_json_comes_before_toml_before_env_unless_config_env_says_so(tmp_path: Path) -> None:
    json_text = json.dumps({"data_backend_config": "b.json", "output_dir": "{env:ROOT}"})
    folder = folder_of(tmp_path, json=json_text, toml=TOML, env="export ROOT=here\n")

    documents = read_documents(folder, {}, tmp_path, {"ROOT": "elsewhere"})

    assert documents.body["config"]["output_dir"] == "here"
    assert documents.notes == (f"{folder}/config.toml is not read: config.json has the options.",)
    (folder / "config.env").write_text("export CONFIG_TYPE=toml\n")
    assert read_documents(folder, {}, tmp_path, {}).body["config"]["seed"] == 3
    (folder / "config.env").write_text("export CONFIG_BACKEND=cmd\n")
    with pytest.raises(CommandError, match=r"asks for options from cmd; config\.json, "):
        read_documents(folder, {}, tmp_path, {})


def test_the_base_config_env_comes_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, env="export A=base\nexport B=base\n")
    write(folder / "mine" / "config.json", {"data_backend_config": "b.json", "x": "{env:A}{env:B}"})
    (folder / "mine" / "config.env").write_text("export B=$A-own\n")

    documents = read_documents(folder / "mine", {}, tmp_path, {})

    assert documents.body["config"]["x"] == "basebase-own"


def test_a_config_env_that_needs_a_shell_harms_no_other_form(tmp_path: Path) -> None:
    body = json.dumps({"data_backend_config": "b.json"})
    folder = folder_of(tmp_path, json=body, env="export A=1\nexport B=$(date)\n")

    (note,) = read_documents(folder, {}, tmp_path, {}).notes

    assert "config.env, line 2: B: $(date) needs a shell" in note
    (folder / "config.json").unlink()
    with pytest.raises(DocumentError, match="line 2: B:"):
        read_documents(folder, {}, tmp_path, {})


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "has no configuration: config.json, config.toml or config.env was looked for"),
        ({"toml": "a = 1\nb = \n"}, r"config\.toml: Invalid value \(at line 2"),
        ({"toml": "a = 2026-11-29"}, r"config\.toml: a date is no value of an option"),
        ({"toml": f"a = {'9' * 20_000}"}, r"config\.toml: a number is too long$"),
        ({"toml": f"a = 0x{'f' * 20_000}"}, r"config\.toml: a number is too long$"),
        ({"toml": f"a = {'9' * 350}"}, r"config\.toml: 9{40}… is not a number"),
        ({"env": "TRAINER_EXTRA_ARGS=lr=1\n"}, "line 1: TRAINER_EXTRA_ARGS: lr=1 is not --name"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    with pytest.raises((CommandError, DocumentError), match=why):
        read_documents(folder_of(tmp_path, **files), {}, tmp_path, {})


def test_what_is_neither_a_file_nor_a_folder_is_there_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="/dev/null is neither a file nor a folder with"):
        read_documents(Path("/dev/null"), {}, tmp_path, {})
    with pytest.raises(CommandError, match=r"there is no .*nowhere"):
        read_documents(tmp_path / "nowhere", {}, tmp_path, {})


def test_address_options_come_before_environment_before_the_embedded_service(
    tmp_path: Path,
) -> None:
    write(tmp_path / "service.json", {"url": "http://embedded", "api_key": "rv_embedded"})
    home = {"REVERIE_HOME": str(tmp_path)}
    env = {**home, "REVERIE_URL": "http://env", "REVERIE_API_KEY": "rv_env"}
    assert find_address(url=None, api_key=None, env=home) == Address(
        url="http://embedded", api_key="rv_embedded"
    )
    assert find_address(url=None, api_key=None, env=env) == Address(
        url="http://env", api_key="rv_env"
    )
    assert find_address(url="http://o", api_key="rv_o", env=env) == Address(
        url="http://o", api_key="rv_o"
    )


def test_the_key_of_the_embedded_service_is_not_sent_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "service.json", {"url": "http://embedded", "api_key": "rv_embedded"})
    with pytest.raises(CommandError, match="no key for http://other"):
        find_address(url="http://other", api_key=None, env={"REVERIE_HOME": str(tmp_path)})


def test_without_a_service_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="reverie up"):
        find_address(url=None, api_key=None, env={"REVERIE_HOME": str(tmp_path)})
