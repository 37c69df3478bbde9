"""The kinds of files that a dataset may have: their suffixes, sizes and paths."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Final

from pydantic.config import JsonValue

from services.store.datasets import Media
from trainer_core.data.captions import MAX_CAPTION_BYTES

MAX_PATH_CHARACTERS: Final = 512
SIZES_BYTES: Final[dict[Media, tuple[int, int]]] = {
    "image": (1, 100 << 20),
    "caption": (0, MAX_CAPTION_BYTES),
}
"""The least and the most of a file."""
MEDIA: Final[dict[str, Media]] = {
    ".jpg": "image",
    ".jpeg": "image",
    ".png": "image",
    ".webp": "image",
    ".txt": "caption",
}
_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069"
"""Also the marks that turn the direction of text: with one, a file can look like a picture."""
HAS_CONTROL: Final = re.compile(f"[{_CONTROL}]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def media_of(path: str) -> Media | None:
    """The kind of the file with this path; None where the suffix is not known."""
    return MEDIA.get(PurePosixPath(path).suffix.lower())


def path_fault(path: str) -> str | None:
    """What is wrong with a path, but for its suffix: the end of a sentence."""
    parts = path.split("/")
    faults = (
        (len(path) > MAX_PATH_CHARACTERS, f"is longer than {MAX_PATH_CHARACTERS} characters"),
        (path.startswith("/"), "is not relative"),
        (_DRIVE.match(path) is not None, "begins with a drive"),
        ("\\" in path, "has a backslash; folders are separated by /"),
        (HAS_CONTROL.search(path) is not None, "has a control character"),
        (".." in parts, "has a part .."),
        ("" in parts or "." in parts, "has an empty part or a part ."),
        (not unicodedata.is_normalized("NFC", path), "is not in Unicode's composed form (NFC)"),
    )
    return next((words for is_wrong, words in faults if is_wrong), None)


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
    part = rf"[^/\\{_CONTROL}]+"
    suffixes = "|".join(_in_any_case(suffix) for suffix, each in MEDIA.items() if each == media)
    return rf"^(?![A-Za-z]:)(?:(?!\.\.?/){part}/)*{part}\.(?:{suffixes})$"


def _in_any_case(suffix: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" for letter in suffix.removeprefix("."))
