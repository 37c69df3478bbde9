"""Prompt libraries: one image per prompt, in a file named by its nickname. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from trainer_core.documents import load_document
from trainer_core.errors import DocumentError
from trainer_core.painting.options import ImageRequest

_MAX_NAME_CHARACTERS: Final = 80


def requests_of_library(library: Path, folder: Path) -> tuple[ImageRequest, ...]:
    """One image for each prompt of a prompt library ``{"nickname": "prompt", …}``.

    A prompt may also be ``{"prompt": "…"}``, as in SimpleTuner's files; other fields are ignored.
    Each image goes into ``folder``, in a file named by its nickname (see ``safe_names``).
    Raises DocumentError if the file is empty or holds anything else.
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
        ImageRequest(prompt=prompt, file=folder / f"{name}.png")
        for name, prompt in zip(names, texts, strict=True)
    )


def safe_names(nicknames: Iterable[str]) -> list[str]:
    """A file name without suffix for each nickname: letters and digits of any script, ``-``, ``_``.

    All names differ, even on a file system that ignores case.
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
