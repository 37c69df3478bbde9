"""Describing base models, and the operator's list of described folders."""

import json
from pathlib import Path

import pytest

from trainer_core.base_models.describe import describe_base, read_base_models
from trainer_core.errors import BaseModelError


def model_in(folder: Path, weights: bytes = b"w") -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps({"max_resolution": [32, 32]}))
    (folder / "transformer" / "weights.safetensors").write_bytes(weights)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "left.over").write_text("x")
    return folder


def test_a_described_folder_is_listed(tmp_path: Path) -> None:
    described = describe_base(model_in(tmp_path / "tiny"), "hidream-tiny")
    (tmp_path / "undescribed").mkdir()

    listed = read_base_models(tmp_path)

    assert listed == {"hidream-tiny": described}
    assert described.max_area_px == 256 * 256
    files = json.loads((tmp_path / "tiny" / "reverie-base.json").read_text())["files"]
    assert sorted(files) == ["transformer/config.json", "transformer/weights.safetensors"]


def test_the_digest_depends_on_content_only(tmp_path: Path) -> None:
    one = describe_base(model_in(tmp_path / "one"), "a")
    same = describe_base(model_in(tmp_path / "same"), "b")
    other = describe_base(model_in(tmp_path / "other", b"v"), "a")

    assert one.digest == same.digest != other.digest
    assert describe_base(tmp_path / "one", "a").digest == one.digest
    with pytest.raises(BaseModelError, match="share a name"):
        read_base_models(tmp_path)


def test_parts_may_be_links_to_folders(tmp_path: Path) -> None:
    real = describe_base(model_in(tmp_path / "real"), "a")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/transformer").symlink_to(tmp_path / "real/transformer")
    (tmp_path / "linked/loop").symlink_to(tmp_path / "linked")

    assert describe_base(tmp_path / "linked", "b").digest == real.digest


def test_a_list_that_cannot_be_read_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (model_in(tmp_path / "tiny") / "reverie-base.json").write_text("{")

    with pytest.raises(BaseModelError, match="tiny"):
        read_base_models(tmp_path)
    with pytest.raises(BaseModelError, match="nowhere"):
        read_base_models(tmp_path / "nowhere")
