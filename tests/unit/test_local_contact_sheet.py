"""The contact sheet of a local run: of all pictures in the output folder it reads few."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.pictures import png_text
from tests.unit.config_examples import import_small
from trainer_core.errors import BadImageError
from trainer_core.local.contact_sheet import write_contact_sheet
from trainer_core.painting.contact_sheet import SHEET
from trainer_core.validation.pictures import pictures_of, write_picture


def damage(file: Path) -> None:
    """Leave the texts, which come first, and half of the pixels."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 3 // 4])


def test_pixels_of_pictures_that_it_does_not_show_are_not_read(tmp_path: Path) -> None:
    plan = import_small({"validation_step_interval": 2, "validation_resolution": "64"}).plan
    assert plan.operation.pictures is not None
    files = {}
    for step, digest in ((2, plan.identity_digest()), (4, plan.identity_digest()), (6, "earlier")):
        (picture,) = pictures_of(plan.operation.pictures, step, "trained")
        files[step] = tmp_path / picture.path
        noise = Image.effect_noise((64, 64), 60).convert("RGB")
        write_picture(files[step], noise, {"plan_digest": digest})
    damage(files[6])

    write_contact_sheet(plan, tmp_path)
    with Image.open(tmp_path / SHEET) as sheet:
        contents = json.loads(png_text(sheet)["Description"])
    assert contents["rows"] == ["step 2", "step 4"]

    damage(files[4])
    with pytest.raises(BadImageError, match="step-000004"):
        write_contact_sheet(plan, tmp_path)
