"""Models beside the base models: what their places name, and nothing outside of the folder."""

from pathlib import Path

import pytest

from tests.support.tiny_clip import write_tiny_clip
from trainer_core.base_models.auxiliary import auxiliary_names, find_auxiliary
from trainer_core.base_models.clip import check_clip_folder, clip_digest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP models ``small`` and ``someone/large``, a base model, and what is neither."""
    folder = tmp_path_factory.mktemp("all") / "models"
    write_tiny_clip(folder / "small")
    write_tiny_clip(folder / "someone/large", seed=1)
    (folder / ".hidden").symlink_to(folder / "small")
    (folder.parent / "outside").symlink_to(folder / "small")
    (folder / "base/transformer").mkdir(parents=True)
    (folder / "base/reverie-base.json").write_text("{}")
    for name, config in (("other", '{"model_type": "siglip"}'), ("broken", "{")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(config)
    (folder / "a file").write_text("")
    return folder


def test_the_place_of_a_model_is_its_name(models: Path) -> None:
    names = auxiliary_names(models, check_clip_folder)

    assert names == ["small", "someone/large"]
    for name in names:
        assert find_auxiliary(models, name, check_clip_folder) == models / name
    assert auxiliary_names(models / "absent", check_clip_folder) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../outside",
        "someone",
        "someone/../small",
        "someone/./large",
        "./small",
        ".hidden",
        "small/",
        "/small",
        "someone/large/more",
        "someone//large",
        "small\n",
        "small\0",
        "other",
        "broken",
        "absent",
        "x" * 300,
    ],
)
def test_nothing_else_is_found(models: Path, name: str) -> None:
    assert find_auxiliary(models, name, check_clip_folder) is None
    assert find_auxiliary(models, str(models / "small"), check_clip_folder) is None


def test_a_digest_is_that_of_what_is_loaded(models: Path, tmp_path: Path) -> None:
    copy = write_tiny_clip(tmp_path / "copy")
    (copy / "pytorch_model.bin").write_bytes(b"a pickle, which is not read")

    assert clip_digest(copy) == clip_digest(models / "small")
    assert clip_digest(copy) != clip_digest(models / "someone/large")
    (copy / "preprocessor_config.json").write_text("{}")
    assert clip_digest(copy) != clip_digest(models / "small")
