"""The images of a backend that ``max_num_samples`` chooses: the same ones in every run."""

import hashlib

from trainer_core.config.plan import Backend
from trainer_core.data.index import FileItem


def subset_of(items: list[FileItem], backend: Backend) -> tuple[list[FileItem], list[str]]:
    """The chosen images, in the same order, and a line that tells of it.

    An image is chosen by a hash of its content and the backend's id, so that neither its name nor
    other images decide: with one image more in the folder, at most one other is left out.
    """
    most = backend.max_num_samples
    if most is None or len(items) <= most:
        return items, []
    ranked = sorted(range(len(items)), key=lambda position: _rank(items[position], backend.id))
    chosen = sorted(ranked[:most])
    warning = (
        f"{backend.id}: {most} of {len(items)} usable images are used, chosen by "
        "max_num_samples; each run chooses the same ones."
    )
    return [items[position] for position in chosen], [warning]


def _rank(item: FileItem, backend: str) -> tuple[bytes, tuple[str, ...], str]:
    """Copies of an image are told apart by their captions, and then by their names."""
    content = hashlib.sha256(f"{backend}\0{item.sha256}".encode()).digest()
    return content, item.captions, item.path
