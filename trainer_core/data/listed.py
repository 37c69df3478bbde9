"""Pair the images of a dataset's list of files with their captions, without reading a file."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from trainer_core.config.plan import Backend
from trainer_core.data.captions import captions_of
from trainer_core.data.folder import caption_files, stem_of
from trainer_core.data.index import FileItem
from trainer_core.data.mask_levels import Lit, check_lit
from trainer_core.data.reading import caption_notes, left_out_notes
from trainer_core.errors import BadImageError


class ListedFile(Protocol):
    """A file of a verified dataset."""

    @property
    def path(self) -> str: ...
    @property
    def media(self) -> str:
        """``image``, ``caption``, or another kind, which is no part of the images."""

    @property
    def sha256(self) -> str: ...
    @property
    def width_px(self) -> int | None: ...
    @property
    def height_px(self) -> int | None: ...
    @property
    def lit(self) -> Lit | None:
        """What of an image is above black; None where nobody has looked."""

    @property
    def text(self) -> str | None:
        """Content of a caption."""


class Listing(NamedTuple):
    """The images of one backend."""

    items: list[FileItem]
    notes: list[str]
    """What is not used: black masks and caption files, each a sentence that begins with the
    backend's id."""


def items_of(backend: Backend, files: Iterable[ListedFile]) -> Listing:
    """The images of one backend with their captions.

    Raises LookupError where an image has no size, BadCaptionError where a caption is unusable.
    """
    listed = list(files)
    texts = {file.path: file.text for file in listed if file.media == "caption"}
    captions = caption_files(tuple(texts))
    items: list[FileItem] = []
    black: list[BadImageError] = []
    for file in listed:
        if file.media != "image":
            continue
        if backend.mask_kind is not None:
            try:
                check_lit(backend.mask_kind, file.lit, name=file.path)
            except BadImageError as error:
                black.append(error)
                continue
        if file.width_px is None or file.height_px is None:
            raise LookupError(f"{file.path} has no size")
        item = FileItem(
            backend=backend.id,
            path=file.path,
            sha256=file.sha256,
            width_px=file.width_px,
            height_px=file.height_px,
            captions=captions_of(
                backend, file.path, texts.get(captions.get(stem_of(file.path), ""))
            ),
        )
        items.append(item)
    notes = [
        *left_out_notes(black, of=len(items) + len(black)),
        *caption_notes(backend, [item.path for item in items], sorted(texts)),
    ]
    return Listing(items, [f"{backend.id}: {note}" for note in notes])
