"""The digest of a dataset: one text that tells whether two datasets have the same files.

It is the digest of a tree of hashes, as Merkle described them. That of a file is the SHA-256 of its
kind, its size and the SHA-256 of its bytes. That of a folder is the SHA-256 of what lies in it:
name, kind and digest of each file and folder, in order. The names of datasets do not count, nor
does when, from what, or in which order they were made.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple

PREFIX: Final = "sha256:"
_FILE: Final = b"file"
_FOLDER: Final = b"folder"


class DigestedFile(NamedTuple):
    """What counts of one file."""

    path: str
    """Relative, ``/`` separated."""
    media: str
    size_bytes: int
    sha256: str
    """64 hex digits."""


def digest_of(files: Iterable[DigestedFile]) -> str:
    """The digest of a dataset of these files, ``sha256:`` and 64 hex digits.

    Only the folders that are open are held in memory, so any number of files will do.

    Args:
        files: in the order of their paths' UTF-8 bytes, each path once. In that order what lies in
            a folder comes together, and a folder comes where ``name/`` would.

    Raises ValueError where the paths are not in that order.
    """
    names: list[bytes] = []
    # Of the root, and of the folder of each name.
    open_folders = [hashlib.sha256()]
    before = b""
    for file in files:
        path = file.path.encode()
        if path <= before:
            raise ValueError(f"{file.path!r} is not behind the path before it")
        before = path
        *folders, name = path.split(b"/")
        shared = _num_equal(names, folders)
        while len(names) > shared:
            _close_last(names, open_folders)
        for folder in folders[shared:]:
            names.append(folder)
            open_folders.append(hashlib.sha256())
        open_folders[-1].update(_entry(name, _FILE, _leaf(file)))
    while names:
        _close_last(names, open_folders)
    return f"{PREFIX}{open_folders[0].hexdigest()}"


def in_order(files: Iterable[DigestedFile]) -> list[DigestedFile]:
    """The files in the order that ``digest_of`` takes them in."""
    # Python compares code points, whose order is that of their UTF-8 bytes.
    return sorted(files, key=lambda file: file.path)


def _num_equal(names: list[bytes], others: list[bytes]) -> int:
    """How many names at the start of both lists are equal."""
    number = 0
    for name, other in zip(names, others, strict=False):
        if name != other:
            break
        number += 1
    return number


def _close_last(names: list[bytes], open_folders: list["hashlib._Hash"]) -> None:
    """Nothing more lies in the innermost folder: it is an entry of the one around it."""
    digest = open_folders.pop().digest()
    open_folders[-1].update(_entry(names.pop(), _FOLDER, digest))


def _leaf(file: DigestedFile) -> bytes:
    content = f"{file.media}\0{file.size_bytes}\0{file.sha256}"
    return hashlib.sha256(content.encode()).digest()


def _entry(name: bytes, kind: bytes, digest: bytes) -> bytes:
    """One entry of a folder; no name has a NUL, and a digest has 32 bytes, so it reads one way."""
    return b"\0".join((name, kind, digest))
