"""What is shipped beside the code agrees with it: settings, process modules, lock, examples."""

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from trainer_core.documents import load_document

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
CHART = ROOT / "helm" / "reverie"
SHIPPED = [
    COMPOSE,
    *(ROOT / "deploy").glob("*.env.example"),
    *CHART.rglob("*.tpl"),
    *CHART.rglob("*.yaml"),
]
PHOTOS = ROOT / "examples" / "photos"


def names_in(files: list[Path]) -> set[str]:
    return {
        name for file in files for name in re.findall(r"\bREVERIE_[A-Z0-9_]+\b", file.read_text())
    }


def test_every_shipped_setting_exists() -> None:
    known = names_in([ROOT / "services" / "settings" / "env.py"])

    assert names_in(SHIPPED) <= known


def test_the_example_lists_every_setting() -> None:
    known = names_in([ROOT / "services" / "settings" / "env.py"])

    assert names_in([ROOT / "deploy" / "reverie.env.example"]) == known


def test_every_shipped_process_exists() -> None:
    modules = {
        module
        for file in SHIPPED
        for module in re.findall(r"\[python, -m, (services\.[a-z_.]+)", file.read_text())
    }

    assert len(modules) == 6
    for module in modules:
        found = importlib.util.find_spec(module)
        assert found is not None, module
        if found.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{module}.__main__") is not None, module


def test_compose_and_the_chart_give_each_process_the_same_time_to_end() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    in_compose = {
        name: services[name].get("stop_grace_period", "10s")
        for name in ("api", "cache-builder", "dispatcher", "results")
    }
    in_chart = {
        name: re.findall(
            r"terminationGracePeriodSeconds: (\d+)", (CHART / f"templates/{name}.yaml").read_text()
        )
        for name in in_compose
    }

    assert in_compose == {name: f"{seconds}s" for name, (seconds,) in in_chart.items()}
    assert services["trainer"]["stop_grace_period"] == "3m"
    assert values["trainerTerminationGracePeriodSeconds"] == 180


def test_compose_starts_each_process_once() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]

    commands = sorted(
        s["command"][2] for s in services.values() if s.get("command", [""])[0] == "python"
    )

    assert commands == [
        "services.api",
        "services.cache_builder",
        "services.dispatcher",
        "services.results",
        "services.store.migrate",
        "services.trainer",
    ]
    assert "REVERIE_BROKER_URL" not in services["api"]["environment"]
    # A run asks for the class of the API's setting: a trainer has to have it.
    classes = {services[name]["environment"]["REVERIE_GPU_CLASS"] for name in ("api", "trainer")}
    assert len(classes) == 1
    for name, only in {
        "HF_TOKEN": "results",
        "REVERIE_SECRETS_PRIVATE_KEYS": "results",
        "REVERIE_SECRETS_PUBLIC_KEY": "api",
    }.items():
        assert [each for each, s in services.items() if name in s.get("environment", {})] == [only]


def test_the_lock_pins_every_dependency_and_torch_first() -> None:
    pins = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if not line.startswith("#")
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]

    assert pins[0].startswith("torch==")
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", pin) for pin in pins)
    pinned = {canonical(pin.partition("==")[0]) for pin in pins}
    assert {canonical(re.split(r"[\[=<>~! ]", want)[0]) for want in wanted} <= pinned


def test_nothing_is_installed_from_an_address() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]

    assert len(wanted) > 20
    assert not [want for want in wanted if "@" in want or "://" in want]
    installs = re.findall(r"pip install[^\n&]*", (ROOT / "Dockerfile").read_text())
    assert len(installs) == 3
    assert not [line for line in installs if "://" in line or "git+" in line]


def test_images_run_as_nobody_special_and_hold_no_secret_and_no_more_than_they_need() -> None:
    _, *stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    by_name = {stage.split()[2]: stage for stage in stages}

    assert by_name.keys() == {"base", "control", "worker"}
    for name in ("control", "worker"):
        users = re.findall(r"^USER (\S+)", by_name[name], flags=re.MULTILINE)
        assert users == ["10001:10001"], name
    assert "torch" not in by_name["control"]
    assert re.findall(r"\.\[(.*)\]", by_name["control"]) == ["service,traces,trackers"]
    for stage in stages:
        assert not re.search(r"^ARG |SECRET|TOKEN|PASSWORD|PEPPER|_KEY", stage, re.MULTILINE)
    copied = (ROOT / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in copied if line.startswith("!")}
    assert "*" in copied
    assert kept == {
        "pyproject.toml", "requirements.lock", "README.md", "LICENSE", "services", "trainer_core",
    }  # fmt: skip


def canonical(name: str) -> str:
    """As package indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(("folder", "least"), [("train", 12), ("held_out", 4)])
def test_photographs_have_captions_size_and_a_licence(folder: str, least: int) -> None:
    licences = (PHOTOS / "LICENSES.md").read_text()
    photos = sorted((PHOTOS / folder).glob("*.jpg"))

    assert len(photos) >= least
    for photo in photos:
        with Image.open(photo) as image:
            assert min(image.size) >= 320, photo.name
        assert photo.stat().st_size <= 150_000
        assert len(photo.with_suffix(".txt").read_text().split()) >= 5
        assert f"{folder}/{photo.name}" in licences


def test_the_photographs_come_in_three_aspects() -> None:
    aspects = set()
    for photo in PHOTOS.rglob("*.jpg"):
        with Image.open(photo) as image:
            aspects.add(round(image.width / image.height, 1))

    assert aspects == {0.7, 1.0, 1.5}


def test_the_demo_documents_are_readable_as_users_write_them() -> None:
    demo = ROOT / "examples" / "demo"

    assert load_document(demo / "config.json")["pretrained_model_name_or_path"] == "hidream-tiny"
    assert "},\n        }" in (demo / "lycoris_config.json").read_text()  # the trailing commas stay
    assert load_document(demo / "lycoris_config.json")["algo"] == "lokr"
    roles = {
        b["id"]: b.get("dataset_type", "image")
        for b in load_document(demo / "multidatabackend.json")
    }
    assert roles == {"photos": "image", "held-out": "eval", "text-embeds": "text_embeds"}
