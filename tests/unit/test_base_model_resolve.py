"""What the name of a base model means, and what is known of the model without its weights."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.config_examples import TINY_CONFIG, base_model
from trainer_core.base_models.known import FLAVOURS, KNOWN_MODELS, PUBLISHED, TEST_MODELS
from trainer_core.base_models.obtain import find_base, obtain_base, write_test_model
from trainer_core.base_models.resolve import (
    HubName,
    Known,
    Listed,
    LocalFolder,
    Meaning,
    NoModel,
    NotFound,
    resolve,
)
from trainer_core.base_models.shape import shape_of
from trainer_core.errors import BaseModelError

FULL = FLAVOURS["full"]


def model_in(folder: Path, config: Any = TINY_CONFIG) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    return folder


def test_the_list_comes_before_a_folder_and_a_folder_before_a_known_shape(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "hidream-tiny")
    listed = {"hidream-tiny": base_model("hidream-tiny", TINY_CONFIG)}

    assert resolve("hidream-tiny", listed, [tmp_path]) == Listed(listed["hidream-tiny"])
    assert resolve("hidream-tiny", {}, [tmp_path]) == LocalFolder("hidream-tiny", folder)
    known = KNOWN_MODELS["hidream-tiny"]
    assert resolve("hidream-tiny", {}, [tmp_path / "other"]) == Known("hidream-tiny", known)
    assert resolve(FULL, {}, [tmp_path]) == Known(FULL, PUBLISHED)


def test_a_folder_without_a_transformer_hides_no_model(tmp_path: Path) -> None:
    for name in ("hidream-tiny", "owner/copy", "mine"):
        (tmp_path / "first" / name).mkdir(parents=True)
    second = model_in(tmp_path / "second" / "mine")
    folders = [tmp_path / "first", tmp_path / "second"]

    assert resolve("mine", {}, folders) == LocalFolder("mine", second)
    assert isinstance(resolve("hidream-tiny", {}, folders), Known)
    assert resolve("owner/copy", {}, folders) == NoModel(
        "owner/copy", tmp_path / "first" / "owner/copy"
    )


@pytest.mark.parametrize(
    ("name", "kind", "is_path"),
    [
        ("owner/a-copy", HubName, None),
        ("_owner/a.b_c-d", HubName, None),
        ("hidream-tinny", NotFound, False),
        ("two words/x", NotFound, False),
        ("", NotFound, False),
        ("/no/where", NotFound, True),
        ("./mine", NotFound, True),
        ("~/mine", NotFound, True),
        ("../mine", NotFound, True),
        ("owner/..", NotFound, True),
        ("a/b/c", NotFound, True),
        ("models\\mine", NotFound, True),
        ("a/" * 3000, NotFound, True),
    ],
)
def test_what_is_not_here_is_a_hub_name_a_path_or_unknown(
    tmp_path: Path, name: str, kind: type[Meaning], is_path: bool | None
) -> None:
    meaning = resolve(name, {}, [tmp_path / "empty"])

    assert isinstance(meaning, kind)
    if isinstance(meaning, NotFound):
        assert meaning.is_path is is_path
        assert meaning.tried
        assert all(str(place)[:300] in meaning.error().message for place in meaning.tried)


def test_a_shape_says_what_is_assumed_and_whether_the_digest_is_known(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "mine")
    for name in ("mine", "hidream-wide", FULL, "owner/a-copy"):
        shape = shape_of(resolve(name, {}, [tmp_path]))
        assert shape.model.name == name
        assert shape.model.digest == ""
        assert name in (shape.warning or "")
    description = {"name": "called otherwise", "digest": "d" * 64}
    (folder / "reverie-base.json").write_text(json.dumps(description))

    described = shape_of(resolve("mine", {}, [tmp_path]))
    assert (described.model.digest, described.warning) == ("d" * 64, None)
    assert described.parts.transformer == TINY_CONFIG
    assert described.parts.text_encoders == (None,) * 4


def test_parts_that_are_missing_are_the_published_ones_only_of_the_published_shape(
    tmp_path: Path,
) -> None:
    folder = model_in(tmp_path / "real", dict(PUBLISHED.transformer))
    other = {**dict(PUBLISHED.vae or {}), "latent_channels": 8}
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps(other))

    parts = shape_of(resolve("real", {}, [tmp_path])).parts

    assert parts.text_encoders == PUBLISHED.text_encoders
    assert parts.vae == other


OTHER_MODELS = [{"num_layers": "x"}, {}, [], {**TINY_CONFIG, "num_attention_heads": None}]


@pytest.mark.parametrize("config", OTHER_MODELS)
@pytest.mark.parametrize("through", ["validate", "train"])
def test_a_transformer_of_another_model_is_named_by_its_file(
    tmp_path: Path, config: Any, through: str
) -> None:
    model_in(tmp_path / "mine", config)
    checks: dict[str, Callable[[], object]] = {
        "validate": lambda: shape_of(resolve("mine", {}, [tmp_path])),
        "train": lambda: find_base("mine", env={}, folders=[tmp_path]),
    }

    with pytest.raises(BaseModelError, match=r"mine/transformer/config\.json"):
        checks[through]()


@pytest.mark.parametrize("name", ["mine/is/nowhere", "hidream-tinny"])
def test_a_name_that_means_nothing_is_one_error_everywhere(tmp_path: Path, name: str) -> None:
    env = {"REVERIE_HOME": str(tmp_path / "home")}
    with pytest.raises(BaseModelError) as checked:
        shape_of(resolve(name, {}, [tmp_path]))
    with pytest.raises(BaseModelError) as obtained:
        obtain_base(name, env=env, folders=[tmp_path])

    assert checked.value.message == obtained.value.message
    assert str(tmp_path / name) in checked.value.message
    assert "hidream-tiny" in checked.value.message


def test_a_test_model_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("x")

    with pytest.raises(BaseModelError) as caught:
        write_test_model(tmp_path, TEST_MODELS["hidream-tiny"])

    assert caught.value.message.endswith("is not empty and is not a described base model")
    assert "status 1" in caught.value.message


def test_the_room_imports_neither_torch_nor_the_hub(tmp_path: Path) -> None:
    script = (
        "import sys; import trainer_core.base_models.obtain;"
        "assert not {'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules), sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=Path(__file__).resolve().parents[2]
    )
