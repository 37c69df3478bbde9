"""The captions of an image: from its name, from a text file beside it, or one for all images."""

from pathlib import Path, PurePosixPath
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.data.folder import CAPTION_SUFFIX
from trainer_core.errors import BadCaptionError

MAX_CAPTION_CHARACTERS: Final = 20_000
MAX_CAPTION_BYTES: Final = 4 * MAX_CAPTION_CHARACTERS + 3
"""The longest UTF-8 encoding, with a byte-order mark."""


def captions_of(backend: Backend, path: str, text: str | None) -> tuple[str, ...]:
    """The captions of the image at ``path``. Each time the image is used, one is drawn.

    Args:
        path: relative path of the image, with ``/``.
        text: content of its caption file (see ``caption_path``), or None.

    Returns:
        ``textfile``: one per line that is not blank; none without a file.
        ``filename``: the stem with underscores as spaces. ``instanceprompt``: the prompt.
        Masks have none.
    """
    if backend.role == "mask":
        return ()
    match backend.caption_strategy:
        case "textfile":
            lines = () if text is None else text.splitlines()
            return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
        case "filename":
            words = PurePosixPath(path).stem.replace("_", " ").split()
            return (" ".join(words),) if words else ()
        case "instanceprompt":
            return (backend.instance_prompt,) if backend.instance_prompt else ()


def caption_path(image_path: str) -> str:
    """The path of an image's caption file: the same name, ending in ``.txt``."""
    return str(PurePosixPath(image_path).with_suffix(CAPTION_SUFFIX))


def read_captions(backend: Backend, folder: Path, path: str, *, name: str) -> tuple[str, ...]:
    """The captions of the image at ``path`` in a local folder of the backend.

    Raises BadCaptionError, whose message names the caption file as ``name``.
    """
    text = None
    if backend.role != "mask" and backend.caption_strategy == "textfile":
        text = _read_caption(folder / caption_path(path), name=name)
    return captions_of(backend, path, text)


def _read_caption(file: Path, *, name: str) -> str | None:
    """The text of a caption file; None if there is no such file. Raises BadCaptionError."""
    try:
        with file.open("rb") as opened:
            body = opened.read(MAX_CAPTION_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadCaptionError(f"{name}: {error.strerror}") from error
    if len(body) > MAX_CAPTION_BYTES:
        raise BadCaptionError(f"{name}: more than {MAX_CAPTION_CHARACTERS} characters")
    return decode_caption(body, name=name)


def decode_caption(body: bytes, *, name: str) -> str:
    """The text of a caption file; raises BadCaptionError, which names the file.

    It has to be UTF-8, with or without a byte-order mark, and without NUL, which neither the
    database nor a tokenizer accepts.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadCaptionError(f"{name}: not UTF-8 text (byte {error.start})") from error
    if "\0" in text:
        raise BadCaptionError(f"{name}: contains a NUL character")
    if len(text) > MAX_CAPTION_CHARACTERS:
        raise BadCaptionError(f"{name}: {len(text)} characters, more than {MAX_CAPTION_CHARACTERS}")
    return text
