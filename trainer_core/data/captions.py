"""The captions of an image: from its name, from a text file beside it, or one for all images.

Then options change them: see ``caption_changes``.
"""

import codecs
from pathlib import Path, PurePosixPath
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.data.caption_changes import MAX_CAPTION_CHARACTERS, changed_captions
from trainer_core.errors import BadCaptionError

MAX_CAPTION_BYTES: Final = 4 * MAX_CAPTION_CHARACTERS + 3
"""The longest encoding, with a byte-order mark."""
_ENCODINGS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order mark → encoding. Windows' editor calls UTF-16 "Unicode"."""


def captions_of(backend: Backend, path: str, text: str | None) -> tuple[str, ...]:
    """The captions of the image at ``path``. Each time the image is used, one is drawn.

    Args:
        path: relative path of the image, with ``/``.
        text: content of its caption file, or None.

    Returns:
        ``textfile``: one per line that is not blank, or the whole text; none without a file.
        ``filename``: the stem with underscores as spaces. ``instanceprompt``: the prompt.
        Masks have none. All are changed as the backend's options ask.

    Raises BadCaptionError where an option makes one too long.
    """
    return changed_captions(_written_captions(backend, path, text), backend)


def _written_captions(backend: Backend, path: str, text: str | None) -> tuple[str, ...]:
    if backend.role == "mask":
        return ()
    match backend.caption_strategy:
        case "textfile":
            if text is not None and backend.disable_multiline_split:
                lines = ["\n".join(text.splitlines())]
            else:
                lines = [] if text is None else text.splitlines()
            return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
        case "filename":
            words = PurePosixPath(path).stem.replace("_", " ").split()
            return (" ".join(words),) if words else ()
        case "instanceprompt":
            return (backend.instance_prompt,) if backend.instance_prompt else ()


def reads_caption_files(backend: Backend) -> bool:
    """Whether the captions of the backend are in files beside the images."""
    return backend.role != "mask" and backend.caption_strategy == "textfile"


def read_captions(
    backend: Backend, path: str, caption_file: Path | None, *, name: str
) -> tuple[str, ...]:
    """The captions of the image at ``path`` in a local folder of the backend.

    Args:
        backend: says where captions come from.
        path: relative path of the image.
        caption_file: the text file beside it; None where there is none.
        name: of the caption file, in a message.

    Raises:
        BadCaptionError: the file cannot be read, or is not text.
    """
    text = None
    if caption_file is not None and reads_caption_files(backend):
        text = _read_caption(caption_file, name=name)
    return captions_of(backend, path, text)


def _read_caption(file: Path, *, name: str) -> str:
    """The text of a caption file; raises BadCaptionError."""
    try:
        with file.open("rb") as opened:
            body = opened.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        raise BadCaptionError(f"{name}: {error.strerror}") from error
    if len(body) > MAX_CAPTION_BYTES:
        raise BadCaptionError(f"{name}: more than {MAX_CAPTION_CHARACTERS} characters")
    return decode_caption(body, name=name)


def decode_caption(body: bytes, *, name: str) -> str:
    """The text of a caption file; raises BadCaptionError, which names the file.

    It has to be UTF-8, or UTF-16 with a byte-order mark, and without NUL, which neither the
    database nor a tokenizer accepts. Older encodings are not guessed: a wrong guess would train on
    wrong words.
    """
    mark, encoding = next((e for e in _ENCODINGS if body.startswith(e[0])), (b"", "utf-8"))
    try:
        text = body[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise BadCaptionError(f"{name}: {_undecodable(error, mark)}") from error
    if "\0" in text:
        why = "" if mark else "; if it is UTF-16, save it as UTF-8"
        raise BadCaptionError(f"{name}: contains a NUL character{why}")
    if len(text) > MAX_CAPTION_CHARACTERS:
        raise BadCaptionError(f"{name}: {len(text)} characters, more than {MAX_CAPTION_CHARACTERS}")
    return text


def _undecodable(error: UnicodeDecodeError, mark: bytes) -> str:
    if mark and mark != codecs.BOM_UTF8:
        return f"not UTF-16 text (byte {error.start + len(mark)}); save it as UTF-8"
    value = error.object[error.start]
    return (
        f"not UTF-8 text (byte {error.start + len(mark)} is {value:#04x}; perhaps it is Latin-1 or "
        "Windows-1252); save it as UTF-8"
    )
