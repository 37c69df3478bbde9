"""Replace a file by one that appears complete or not at all. Imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that replaces it when the block ends; after an error no draft stays.

    The block writes it. Raises OSError.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 into an existing folder; after an error no draft stays.

    Raises OSError.
    """
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")
