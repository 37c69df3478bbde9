"""Pair the images of a backend with the masks of another one, by name."""

from collections.abc import Sequence
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.config.plan.problems import Problem
from trainer_core.data.folder import stem_of
from trainer_core.data.index import FileItem

_PATHS_SHOWN: Final = 5


class BackendMasks:
    """The masks of one backend, found by the names of their images."""

    def __init__(self, backend: Backend, items: Sequence[FileItem]) -> None:
        self.backend = backend
        self._by_stem: dict[str, list[FileItem]] = {}
        for item in items:
            self._by_stem.setdefault(stem_of(item.path), []).append(item)

    def of(self, image: FileItem) -> FileItem:
        """The image's mask; raises LookupError if it has none."""
        return self._by_stem[stem_of(image.path)][0]

    def having(self, images: Sequence[FileItem]) -> list[FileItem]:
        """The images that have a mask, or several."""
        return [image for image in images if stem_of(image.path) in self._by_stem]

    def problems(self, position: int, images: Sequence[FileItem]) -> list[Problem]:
        """What a run cannot start with, as problems of backend ``position``.

        That is images with several masks, and more than half of them with none: fewer are left out.
        """
        pointer = f"/data_backends/{position}/conditioning_data"
        missing = [i.path for i in images if stem_of(i.path) not in self._by_stem]
        ambiguous = [i.path for i in images if len(self._by_stem.get(stem_of(i.path), ())) > 1]
        found = []
        if 2 * len(missing) > len(images):
            message = (
                f"{len(missing)} of {len(images)} images have no usable mask of the same name in "
                f"{self.backend.id}: {_some(missing)}."
            )
            found.append(Problem(pointer=pointer, code="missing", message=message))
        if ambiguous:
            message = f"Several masks in {self.backend.id} have the name of: {_some(ambiguous)}."
            found.append(Problem(pointer=pointer, code="conflict", message=message))
        return found

    def warnings(self, backend: Backend, images: Sequence[FileItem]) -> list[str]:
        """Warnings of images that are left out for want of a mask, and of stretched masks.

        A mask of another aspect ratio than its image is stretched. ``backend``: of the images.
        """
        masked = self.having(images)
        having = {image.path for image in masked}
        missing = [image.path for image in images if image.path not in having]
        found = []
        if missing:
            have, are = ("has", "is") if len(missing) == 1 else ("have", "are")
            found.append(
                f"{backend.id}: {len(missing)} of {len(images)} images {have} no usable mask of "
                f"the same name in {self.backend.id} and {are} left out: {_some(missing)}."
            )
        pairs = ((image, self._by_stem[stem_of(image.path)][0]) for image in masked)
        mismatched = [image.path for image, mask in pairs if _differs_in_shape(image, mask)]
        if mismatched:
            found.append(
                f"{self.backend.id}: {len(mismatched)} masks have another aspect ratio than their "
                f"images and are stretched over them: {_some(mismatched)}."
            )
        return found


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
    return ", ".join(paths[:_PATHS_SHOWN]) + more


def _differs_in_shape(image: FileItem, mask: FileItem) -> bool:
    """Whether the widths differ by more than rounding: two pixels of the mask, or 2 %."""
    width = mask.height_px * image.width_px / image.height_px
    return abs(width - mask.width_px) > max(2.0, 0.02 * mask.width_px)
