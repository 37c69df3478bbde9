"""Files of a base model that are damaged or missing are named before a run uses them."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.support import damage
from trainer_core.base_models.describe import BaseModel, describe_base
from trainer_core.base_models.obtain import find_base
from trainer_core.base_models.unchanged import check_described
from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import load_text_encoders
from trainer_core.progress import SilentReporter

AGAIN = "Put it back from a copy, or download the base model again"


class Lines(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> BaseModel:
    folder = tmp_path / "models" / "mine"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("reverie*"))
    return describe_base(folder, "mine")


def lines_of(base: BaseModel, home: Path) -> list[str]:
    reporter = Lines()
    check_described(base, home, reporter)
    return reporter.lines


@pytest.mark.parametrize(
    "name",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder_3/model.safetensors",
        "vae/config.json",
        "tokenizer_4/tokenizer.json",
    ],
)
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_file_is_named_each_time(
    base: BaseModel, tmp_path: Path, name: str, how: str
) -> None:
    assert lines_of(base, tmp_path) == []
    file = base.folder / name
    before = file.stat()

    damage.OF_A_FILE[how](file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    for _ in range(2):
        with pytest.raises(BaseModelError) as caught:
            lines_of(base, tmp_path)
        assert caught.value.message == (
            f"{file} is damaged: its SHA-256 is not the recorded one. Put it back from a copy; if "
            "you replaced it on purpose, register the model again: reverie models register "
            f"{base.folder} --name mine"
        )


def test_files_with_other_times_are_compared_once(base: BaseModel, tmp_path: Path) -> None:
    for file in base.folder.rglob("*.safetensors"):
        os.utime(file, ns=(0, 0))

    assert lines_of(base, tmp_path) == [
        f"comparing files of {base.folder} with their SHA-256 (once)"
    ]
    assert lines_of(base, tmp_path) == []
    damage.flip(base.folder / "vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(BaseModelError, match="is damaged"):
        lines_of(base, tmp_path)


def test_weights_that_an_operator_deleted_are_no_damage(base: BaseModel, tmp_path: Path) -> None:
    """The form in which they are multiplied may be kept elsewhere."""
    (base.folder / "transformer/diffusion_pytorch_model.safetensors").unlink()

    assert lines_of(base, tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_3/tokenizer.json",
        "tokenizer/tokenizer.json",
        "tokenizer_4/tokenizer_config.json",
        "text_encoder_3/config.json",
    ],
)
def test_a_missing_file_that_the_library_would_replace_is_named(base: BaseModel, name: str) -> None:
    (base.folder / name).unlink()

    with pytest.raises(BaseModelError) as caught:
        load_text_encoders(base.folder, torch.float32)

    assert caught.value.message == f"{base.folder / name} is missing. {AGAIN}"


def test_a_text_encoder_that_is_cut_off_is_named(base: BaseModel) -> None:
    file = base.folder / "text_encoder_2/model.safetensors"
    damage.truncate(file)

    with pytest.raises(BaseModelError, match=f"^{file} is cut off: "):
        load_text_encoders(base.folder, torch.float32)


@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_damaged_description_of_a_registered_model_is_named(base: BaseModel, how: str) -> None:
    description = base.folder / "reverie-base.json"
    damage.OF_A_FILE[how](description)
    env = {"REVERIE_MODELS_DIR": str(base.folder.parent)}

    with pytest.raises(BaseModelError) as caught:
        find_base("mine", env=env, folders=())

    named = description if how == "truncated" else "mine"
    assert str(named) in caught.value.message
    assert "\n" not in caught.value.message
