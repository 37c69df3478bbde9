"""The table of formats has every suffix that the installed Pillow and its plugins know."""

import pi_heif
import pillow_jxl  # noqa: F401 - registers itself with Pillow
from PIL import Image

from trainer_core.data.formats import (
    CAPTION_SUFFIX,
    FORMATS,
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    USUAL_SUFFIXES,
)


def test_every_suffix_of_pillow_is_read_or_has_a_kind() -> None:
    pi_heif.register_heif_opener()
    Image.init()
    registered = {
        suffix: name
        for suffix, name in Image.registered_extensions().items()
        if name in (*Image.OPEN, "MPO")
    }

    for suffix, name in registered.items():
        if name in FORMATS or name == "MPO":
            assert suffix in IMAGE_SUFFIXES, suffix
        else:
            assert suffix in UNREAD_SUFFIXES, suffix
    assert set(FORMATS) <= Image.OPEN.keys()
    assert set(IMAGE_SUFFIXES) <= registered.keys()


def test_a_suffix_has_one_meaning() -> None:
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert not {*IMAGE_SUFFIXES, CAPTION_SUFFIX} & UNREAD_SUFFIXES.keys()
    assert set(USUAL_SUFFIXES.split()) <= set(IMAGE_SUFFIXES)


def test_nothing_that_runs_a_program_is_opened() -> None:
    """Pillow reads EPS through Ghostscript."""
    assert not {"EPS", "WMF"} & set(FORMATS)
