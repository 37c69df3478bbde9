"""What pictures are asked for, and under which names they are kept. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_core.documents import load_document
from trainer_core.errors import DocumentError

_MAX_NAME_CHARACTERS: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture to be made."""

    prompt: str
    file: Path
    """PNG; what stands there is replaced."""


def pictures_of_library(library: Path, folder: Path) -> tuple[Picture, ...]:
    """One picture for each prompt of a prompt library ``{"nickname": "prompt", …}``.

    A prompt may be ``{"prompt": "…"}`` too, as the importer takes it; what else is in it has no
    effect. Each goes into ``folder`` under its nickname, made safe as a file name. Raises
    DocumentError where the file is not such an object, or an empty one.
    """
    prompts = load_document(library)
    if not isinstance(prompts, dict) or not prompts:
        raise DocumentError(f'{library}: has to be an object {{"nickname": "prompt", …}}')
    texts: list[str] = []
    for nickname, written in prompts.items():
        prompt = written.get("prompt") if isinstance(written, dict) else written
        if not isinstance(prompt, str):
            raise DocumentError(f"{library}: the prompt of {nickname!r} has to be text")
        texts.append(prompt)
    names = safe_names(prompts)
    return tuple(
        Picture(prompt=prompt, file=folder / f"{name}.png")
        for name, prompt in zip(names, texts, strict=True)
    )


def safe_names(nicknames: Iterable[str]) -> list[str]:
    """A file name for each, without a suffix: letters, digits, ``-`` and ``_`` of any script.

    No two are the same, also where a file system does not tell capitals apart.
    """
    names: list[str] = []
    taken: set[str] = set()
    for nickname in nicknames:
        kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in nickname)
        stem = kept[:_MAX_NAME_CHARACTERS] or "_"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
