"""What an event of a picture has to say."""

from dataclasses import replace

import pytest

from services.domain.samples import sample_of
from tests.support.run_samples import png, sample_event


def test_the_path_of_a_picture_is_of_its_step() -> None:
    event = sample_event(7, png())
    assert sample_of(event).step == 7
    with pytest.raises(ValueError, match="path: is of another step"):
        sample_of(replace(event, step=8))
