"""Names of files, made from names that a user chose."""

from collections.abc import Iterable
from typing import Final

_MAX_NAME_CHARACTERS: Final = 80
_MAX_NAME_BYTES: Final = 160
"""Of UTF-8; a file system takes 255, and more is added to the name."""


def safe_names(nicknames: Iterable[str]) -> list[str]:
    """A file name without suffix for each nickname: letters and digits of any script, ``-``, ``_``.

    All names differ, even on a file system that ignores case.
    """
    names: list[str] = []
    taken: set[str] = set()
    for nickname in nicknames:
        kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in nickname)
        stem = kept[:_MAX_NAME_CHARACTERS] or "_"
        while len(stem.encode()) > _MAX_NAME_BYTES:
            stem = stem[:-1]
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
