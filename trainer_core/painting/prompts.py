"""Prompt libraries: one image per prompt, in a file named by its nickname. Imports no torch."""

from pathlib import Path

from trainer_core.documents import load_document
from trainer_core.errors import DocumentError
from trainer_core.file_names import safe_names
from trainer_core.painting.options import ImageRequest


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
