"""Texts that were fetched beside pictures, so that an unchanged one is not fetched again."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trainer_core.disk import writing

_FILE: Final = "texts.jsonl"


class KeptTexts:
    """Token → text, of this revision of a source and of earlier ones."""

    def __init__(self, folder: Path, earlier: Sequence[Path]) -> None:
        """
        Args:
            folder: of this revision.
            earlier: those of others, the newest last.
        """
        self._folder = folder
        self._own = _read(folder)
        self._earlier: dict[str, str] = {}
        for each in earlier:
            self._earlier |= _read(each)

    def get(self, token: str) -> str | None:
        """The text whose content the token names; None where it was not fetched."""
        if token not in self._own and token in self._earlier:
            self.add(token, self._earlier[token])  # so that older revisions can be deleted
        return self._own.get(token)

    def add(self, token: str, text: str) -> None:
        """Keep a text. One thread calls it."""
        line = json.dumps([token, text], ensure_ascii=False)
        with writing(self._folder), (self._folder / _FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._own[token] = text


def _read(folder: Path) -> dict[str, str]:
    """What is kept there; a line that a kill left half is none."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), (folder / _FILE).open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                match json.loads(line):
                    case [str(token), str(text)]:
                        found[token] = text
    return found
