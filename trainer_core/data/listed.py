"""Pair the images of a dataset's list of files with their captions, without reading a file."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from trainer_core.config.plan import Backend
from trainer_core.data.captions import captions_of, reads_caption_files
from trainer_core.data.folder import caption_files, stem_of
from trainer_core.data.index import FileItem
from trainer_core.data.mask_levels import Lit, check_lit
from trainer_core.data.reading import Broken, caption_notes
from trainer_core.errors import BadCaptionError, BadImageError


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

    @property
    def left_out(self) -> Mapping[str, str] | None:
        """Why it cannot be used, as ``message``; None where it can."""


class Listing(NamedTuple):
    """The images of one backend."""

    items: list[FileItem]
    notes: list[str]
    """What is not used: broken pictures, black masks and caption files, each a sentence that begins
    with the backend's id."""


def items_of(backend: Backend, files: Iterable[ListedFile]) -> Listing:
    """The images of one backend with their captions.

    As in a local run, one that cannot be used, or whose caption cannot, is left out with a note.

    Raises:
        BadImageError, BadCaptionError: more than half of them cannot be used; names them.
        LookupError: an image has no size.
    """
    listed = list(files)
    captions = _Captions(backend, [file for file in listed if file.media == "caption"])
    images = [file for file in listed if file.media == "image"]
    items: list[FileItem] = []
    errors: list[BadImageError | BadCaptionError] = []
    for image in images:
        try:
            items.append(_item_of(backend, image, captions))
        except (BadImageError, BadCaptionError) as error:
            errors.append(error)
    notes: list[str] = []
    if errors:
        broken = Broken(backend=backend, place="its dataset", images=len(images), errors=errors)
        if broken.ends_run:
            raise type(errors[0])(broken.message()) from errors[0]
        notes += broken.warnings()
    paths = [image.path for image in images]
    notes += [
        f"{backend.id}: {note}" for note in caption_notes(backend, paths, sorted(captions.files))
    ]
    return Listing(items, notes)


class _Captions:
    """The caption files of a dataset."""

    def __init__(self, backend: Backend, listed: list[ListedFile]) -> None:
        self.files = {file.path: file for file in listed}
        self._backend = backend
        self._by_stem = caption_files(tuple(self.files))

    def of(self, image: str) -> tuple[str, ...]:
        """The captions of the image at this path; raises BadCaptionError."""
        caption = self.files.get(self._by_stem.get(stem_of(image), ""))
        if caption is None:
            return captions_of(self._backend, image, None)
        if caption.left_out is not None and reads_caption_files(self._backend):
            raise BadCaptionError(caption.left_out["message"])
        return captions_of(self._backend, image, caption.text)


def _item_of(backend: Backend, image: ListedFile, captions: _Captions) -> FileItem:
    """Raises BadImageError or BadCaptionError where it is left out, and LookupError."""
    if image.left_out is not None:
        raise BadImageError(image.left_out["message"])
    if backend.mask_kind is not None:
        check_lit(backend.mask_kind, image.lit, name=image.path)
    if image.width_px is None or image.height_px is None:
        raise LookupError(f"{image.path} has no size")
    return FileItem(
        backend=backend.id,
        path=image.path,
        sha256=image.sha256,
        width_px=image.width_px,
        height_px=image.height_px,
        captions=captions.of(image.path),
    )
