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

    def problems(self, position: int, images: Sequence[FileItem]) -> list[Problem]:
        """Images with no mask or with several, as problems of backend ``position``."""
        pointer = f"/data_backends/{position}/conditioning_data"
        missing = [i.path for i in images if stem_of(i.path) not in self._by_stem]
        ambiguous = [i.path for i in images if len(self._by_stem.get(stem_of(i.path), ())) > 1]
        found = []
        if missing:
            message = (
                f"{len(missing)} of {len(images)} images have no mask of the same name in "
                f"{self.backend.id}: {_some(missing)}."
            )
            found.append(Problem(pointer=pointer, code="missing", message=message))
        if ambiguous:
            message = f"Several masks in {self.backend.id} have the name of: {_some(ambiguous)}."
            found.append(Problem(pointer=pointer, code="conflict", message=message))
        return found

    def warnings(self, images: Sequence[FileItem]) -> list[str]:
        """A warning if masks have another aspect ratio than their images; they are stretched."""
        pairs = (
            (i, self._by_stem[stem_of(i.path)][0])
            for i in images
            if stem_of(i.path) in self._by_stem
        )
        mismatched = [image.path for image, mask in pairs if _differs_in_shape(image, mask)]
        if not mismatched:
            return []
        warning = (
            f"{self.backend.id}: {len(mismatched)} masks have another aspect ratio than their "
            f"images and are stretched over them: {_some(mismatched)}."
        )
        return [warning]


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
    return ", ".join(paths[:_PATHS_SHOWN]) + more


def _differs_in_shape(image: FileItem, mask: FileItem) -> bool:
    """Whether the widths differ by more than rounding: two pixels of the mask, or 2 %."""
    width = mask.height_px * image.width_px / image.height_px
    return abs(width - mask.width_px) > max(2.0, 0.02 * mask.width_px)
