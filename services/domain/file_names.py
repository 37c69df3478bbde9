"""Names of files that mean the same file wherever they can be stored, and look like what they are.

Characters that Windows cannot store, such as ``?``, are taken: ordinary names have them elsewhere.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from services.domain.visible_text import CONTROLS, HIDDEN, escaped

MAX_PATH_CHARACTERS: Final = 512
DEVICES: Final = (
    *("con", "prn", "aux", "nul", "conin$", "conout$"),
    *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789¹²³"),
)
"""What Windows opens in place of a file of this name, whatever its suffix and case."""

_CONTROL: Final = re.compile(f"[{CONTROLS}]")
_HIDDEN: Final = re.compile(f"[{HIDDEN}]")
_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def path_fault(path: str) -> str | None:
    """What is wrong with the relative path of a file: the end of a sentence; None where nothing is.

    The suffix is not looked at.
    """
    parts = path.split("/")
    device = next((part for part in parts if _stem(part) in DEVICES), None)
    faults = (
        (_HALF_PAIR.search(path) is not None, "is not text in UTF-8"),
        (len(path) > MAX_PATH_CHARACTERS, f"is longer than {MAX_PATH_CHARACTERS} characters"),
        (path.startswith("/"), "is not relative"),
        (_DRIVE.match(path) is not None, "begins with a drive"),
        ("\\" in path, "has a backslash; folders are separated by /"),
        (_CONTROL.search(path) is not None, "has a control character"),
        (_HIDDEN.search(path) is not None, "has an invisible character"),
        (".." in parts, "has a part .."),
        ("" in parts or "." in parts, "has an empty part or a part ."),
        (
            any(part.endswith((".", " ")) for part in parts),
            "has a part that ends in a dot or a space, which Windows leaves out",
        ),
        (device is not None, f"has the part {device}, which is a device on Windows"),
        (not unicodedata.is_normalized("NFC", path), "is not in Unicode's composed form (NFC)"),
    )
    return next((words for is_wrong, words in faults if is_wrong), None)


def _stem(part: str) -> str:
    """What Windows compares with the names of its devices."""
    return part.partition(".")[0].rstrip(" ").lower()


def shown(path: str) -> str:
    """The path for a message: cut to a length, with each character escaped that cannot be seen."""
    return escaped(path if len(path) <= MAX_PATH_CHARACTERS else f"{path[:100]}…")


def folded(path: str) -> str:
    """Equal for two paths that are one file where case or the form of Unicode does not count."""
    return unicodedata.normalize("NFC", path).casefold()


def key_of(path: str) -> bytes:
    """``folded`` as bytes: one character beyond ASCII makes a text take up to four times as much.

    The path has to be text in UTF-8.
    """
    return folded(path).encode()


def files_as_folders(keys: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each file that would be a folder, too, with the first file in there; of keys of paths."""
    # Sorted like this, what lies in a folder of a file's name comes right behind the file.
    ordered = sorted(key.replace(b"/", b"\0") for key in keys)
    for file, other in pairwise(ordered):
        if other.startswith(file + b"\0"):
            yield file.replace(b"\0", b"/"), other.replace(b"\0", b"/")
