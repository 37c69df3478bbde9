"""Tell which images of a run have the same content."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.data.folder import some_of
from trainer_core.data.index import FileItem

_Used = tuple[Backend, FileItem]
_GROUPS_NAMED: Final = 3
_LEAK: Final = (
    "trained on too, so that the validation loss does not tell how the model does on other images"
)


def equal_image_warnings(
    used: Sequence[tuple[Backend, Sequence[FileItem]]], folders: Mapping[str, str]
) -> list[str]:
    """Warnings of images whose files are the same byte for byte.

    A folder that several backends read, for example at several resolutions, is read so on purpose:
    its images are compared with others only.

    Args:
        used: backends, and their images that the run uses, with the SHA-256 of each.
        folders: backend id → where its images are, as far as that is known.
    """
    of_content: dict[str, list[_Used]] = defaultdict(list)
    for backend, items in used:
        for item in items:
            of_content[item.sha256].append((backend, item))
    several = [group for group in of_content.values() if len(group) > 1]
    within, between, leaks = [], [], []
    for group in several:
        within += list(_within(group))
        pairs = list(_between(group, folders))
        leaks += [pair for pair in pairs if {each.role for each, _ in pair} == {"train", "eval"}]
        between += [pair for pair in pairs if len({each.role for each, _ in pair}) == 1]
    return [
        *_told_within(within),
        *_told_pairs(between, "image", "in several backends, byte for byte"),
        *_told_pairs(leaks, "held-out image", _LEAK),
    ]


def _within(group: Sequence[_Used]) -> Iterator[tuple[str, list[str]]]:
    """Backend id, and the paths of the group in it, where there are several."""
    of_backend: dict[str, list[str]] = defaultdict(list)
    for backend, item in group:
        of_backend[backend.id].append(item.path)
    for id_, paths in of_backend.items():
        if len(paths) > 1:
            yield id_, paths


def _between(group: Sequence[_Used], folders: Mapping[str, str]) -> Iterator[tuple[_Used, _Used]]:
    """The first image of the group with each image of another source."""
    first_backend, first = group[0]
    for backend, item in group[1:]:
        if backend.id == first_backend.id:
            continue
        sources = folders.get(first_backend.id), folders.get(backend.id)
        is_known = None not in sources
        if item.path == first.path and (not is_known or sources[0] == sources[1]):
            continue  # the same file of one folder
        yield group[0], (backend, item)


def _told_within(found: Sequence[tuple[str, list[str]]]) -> Iterator[str]:
    of_backend: dict[str, list[list[str]]] = defaultdict(list)
    for id_, paths in found:
        of_backend[id_].append(paths)
    for id_, groups in of_backend.items():
        copies = sum(len(paths) - 1 for paths in groups)
        are = "image is a copy of another" if copies == 1 else "images are copies of others"
        named = "; ".join(" = ".join(paths[:3]) for paths in groups[:_GROUPS_NAMED])
        more = "; …" if len(groups) > _GROUPS_NAMED else ""
        yield f"{id_}: {copies} {are}, byte for byte: {named}{more}. All of them are used."


def _told_pairs(pairs: Sequence[tuple[_Used, _Used]], what: str, where: str) -> Iterator[str]:
    """Which images are where; ``what``: one of them, such as ``held-out image``."""
    if pairs:
        are = " is" if len(pairs) == 1 else "s are"
        yield f"{len(pairs)} {what}{are} {where}: {some_of([_name(pair) for pair in pairs])}."


def _name(pair: tuple[_Used, _Used]) -> str:
    return " = ".join(f"{backend.id}/{item.path}" for backend, item in pair)
