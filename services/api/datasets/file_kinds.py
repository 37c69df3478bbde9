"""The kinds of files that a dataset may have: their suffixes, sizes, and paths as a pattern."""

import re
from typing import Final

from pydantic.config import JsonValue

from services.domain.file_names import DEVICES
from services.domain.media import MEDIA, Media
from services.domain.visible_text import CONTROLS, HIDDEN
from trainer_core.data.captions import MAX_CAPTION_BYTES
from trainer_core.data.formats import (
    ADAPTER_SUFFIX,
    CAPTION_SUFFIX,
    USUAL_SUFFIXES,
    unread_kind,
)
from trainer_core.weights.start_adapter import MAX_UPLOAD_BYTES

SIZES_BYTES: Final[dict[Media, tuple[int, int]]] = {
    "image": (1, 100 << 20),
    "caption": (0, MAX_CAPTION_BYTES),
    "adapter": (1, MAX_UPLOAD_BYTES),
}
"""The least and the most of a file."""


def no_media(path: str) -> str:
    """Why a file with this path is not part of a dataset: the end of a sentence."""
    kind = unread_kind(path)
    way_out = f"; {kind.way_out}" if kind is not None and kind.way_out else ""
    return (
        f"is neither an image ({USUAL_SUFFIXES} and others), a caption ({CAPTION_SUFFIX}) nor an "
        f"adapter ({ADAPTER_SUFFIX})"
        f"{way_out}"
    )


def file_schemas() -> list[JsonValue]:
    """What each kind of file has, as JSON Schema, which has no word for NFC."""
    return [
        {
            "properties": {
                "path": {"pattern": path_pattern(media)},
                "size_bytes": {"minimum": least, "maximum": most},
            }
        }
        for media, (least, most) in SIZES_BYTES.items()
    ]


def path_pattern(media: Media) -> str:
    """A regular expression (ECMA 262) for the paths of this kind, without length and NFC."""
    devices = "|".join(_in_any_case(name) for name in DEVICES)
    one = rf"[^/\\{CONTROLS}{HIDDEN}]"
    folder = rf"{one}*[^/\\{CONTROLS}{HIDDEN}. ]/"
    suffixes = "|".join(_in_any_case(suffix[1:]) for suffix, each in MEDIA.items() if each == media)
    return (
        rf"^(?![A-Za-z]:)(?!(?:.*/)?(?:{devices}) *(?:[./]|$))"
        rf"(?:{folder})*{one}+\.(?:{suffixes})$"
    )


def _in_any_case(name: str) -> str:
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else re.escape(c) for c in name)
