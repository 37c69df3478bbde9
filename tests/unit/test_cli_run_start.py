"""The local adapter that ``init_lora`` of a new run names, before it is pushed."""

from pathlib import Path
from typing import Final

import pytest

from services.cli.connection import CommandError
from services.cli.documents import Documents, UsedFile
from services.cli.run_start import local_start
from services.domain.starts import StartName, parse_start
from tests.support.adapter_bytes import lora_bytes

RUN: Final = "run_" + "0" * 32


def named(folder: Path, name: str) -> Path | None:
    used = UsedFile(option="config", path=folder / "config.json")
    body = {"config": {"--init_lora": name}}
    return local_start(Documents(body=body, used=(used,), folders={}), folder)


@pytest.mark.parametrize("step", ["500", "00000500", "0000000500"])
def test_a_step_may_be_written_without_zeros(step: str, tmp_path: Path) -> None:
    name = f"{RUN}/checkpoints/step-{step}"
    assert parse_start(name) == StartName(source=RUN, step=500)
    assert named(tmp_path, name) is None


@pytest.mark.parametrize("name", [f"{RUN}/step-500", "run_12", "ds_12/a.safetensors"])
def test_a_name_that_only_begins_as_one_of_the_service_is_told_the_right_forms(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandError) as caught:
        named(tmp_path, name)
    assert str(caught.value).startswith(
        f"init_lora: {name} is no run, no dataset and no file: name"
    )
    assert "run_…/checkpoints/step-00000500" in str(caught.value)


def test_a_local_file_may_be_named_as_one_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "run_12.safetensors").write_bytes(lora_bytes(4, out_features=64))
    assert named(tmp_path, "run_12.safetensors") == tmp_path / "run_12.safetensors"


def test_a_file_that_the_service_would_not_accept_is_told_before_it_is_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.safetensors"
    file.write_bytes(lora_bytes(4, out_features=64, comment="x" * (2 << 20)))
    with pytest.raises(
        CommandError, match=r"old\.safetensors has a header of \d+ bytes, more than"
    ):
        named(tmp_path, file.name)

    file.write_bytes(lora_bytes(4, out_features=64))
    monkeypatch.setattr("services.cli.run_start.MAX_UPLOAD_BYTES", 100)
    with pytest.raises(CommandError, match=r"old\.safetensors has \d+ bytes; the service accepts"):
        named(tmp_path, file.name)
