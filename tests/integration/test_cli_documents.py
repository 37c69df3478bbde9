"""Where `reverie runs submit` finds SimpleTuner's files, and where commands find the service."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.connection import Address, CommandError, find_address
from services.cli.documents import parse_settings, read_documents

EXAMPLES = Path(__file__).parents[2] / "examples"


def write(path: Path, body: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    return path


def test_the_demo_is_found_by_base_name(tmp_path: Path) -> None:
    documents = read_documents(EXAMPLES / "demo", {}, tmp_path)
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
    documents = read_documents(config, {}, tmp_path / "cwd")
    assert documents.body["data_backends"] == [{"id": "right"}]
    assert documents.used[-1].path == wanted


def test_a_missing_file_names_every_place(tmp_path: Path) -> None:
    config = write(tmp_path / "c" / "config.json", {"data_backend_config": "x/b.json"})
    with pytest.raises(CommandError) as caught:
        read_documents(config, {}, tmp_path / "cwd")
    for place in (tmp_path / "x/b.json", tmp_path / "c/x/b.json", tmp_path / "c/b.json"):
        assert str(place) in str(caught.value)


def test_image_folders_are_found_from_the_working_directory() -> None:
    documents = read_documents(EXAMPLES / "demo", {}, EXAMPLES.parent)

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

    assert set(read_documents(config, {}, tmp_path).folders) == {"a"}


def test_settings_replace_options_with_or_without_dashes(tmp_path: Path) -> None:
    write(tmp_path / "b.json", [])
    config = write(
        tmp_path / "config.json", {"--seed": 1, "data_backend_config": "b.json", "keep": "a"}
    )
    settings = parse_settings(["--seed=7", "optimizer=optimi-lion", "flag=true", "odd=NaN"])
    body = read_documents(config, settings, tmp_path).body
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
        read_documents(config, {}, tmp_path)


def test_missing_backends_are_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    config = write(tmp_path / "config.json", {"lycoris_config": "none"})
    with pytest.raises(CommandError, match="names no data_backend_config"):
        read_documents(config, {}, tmp_path)


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
