"""The kinds of files that a dataset may have, by the suffixes of their names."""

from pathlib import PurePosixPath
from typing import Final, Literal

from trainer_core.data.formats import ADAPTER_SUFFIX, CAPTION_SUFFIX, IMAGE_SUFFIXES

Media = Literal["image", "caption", "adapter"]

MEDIA: Final[dict[str, Media]] = {
    **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    CAPTION_SUFFIX: "caption",
    ADAPTER_SUFFIX: "adapter",
}


def media_of(path: str) -> Media | None:
    """The kind of the file with this path; None where the suffix is not known."""
    return MEDIA.get(PurePosixPath(path).suffix.lower())
