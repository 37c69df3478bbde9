"""Options of masks, and the links between backends of images and of masks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend, MaskKind, plain_backend
from trainer_core.config.simpletuner.crops import Crops
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.sizes import Sizes
from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.config.simpletuner.verdicts import Option, Table

MASKS: Final = Table()
_KIND: Final[Option[MaskKind | None]] = MASKS.choice(
    "conditioning_type",
    MaskKind,
    None,
    "Of conditioning: mask takes the red channel, segmentation all that is not black.",
    known=("controlnet", "reference_strict", "reference_loose"),
)
DATA: Final = MASKS.value(
    "conditioning_data", "Id of the backend that holds this one's masks, by the same file names."
)
_SOURCE: Final = MASKS.text(
    "source_dataset_id", None, "Of masks: the backend that names them in its conditioning_data."
)

_SIZES: Final = tuple(each.name for kind in (Sizes, Crops) for each in fields(kind))


@dataclass(frozen=True, slots=True)
class ReadBackend:
    """A backend with the options that it was read from."""

    backend: Backend
    options: Options
    source: PictureSource | None = None
    """What its files are fetched from before they are read."""


def mask_kind_of(options: Options, *, holds_masks: bool) -> MaskKind | None:
    """How the masks of a backend are read; None where it holds images."""
    if not holds_masks:
        options.idle("on images", _KIND)
        return None
    if options.is_missing(_KIND):
        message = "conditioning_type is missing: mask or segmentation."
        options.problem(_KIND, "missing", message)
    return options[_KIND] or "mask"


def masks_backend(id_: str, kind: MaskKind) -> Backend:
    """A backend of masks; ``link_masks`` sets its sizes to those of its images."""
    plain = plain_backend(id_, role="mask", caption_strategy="filename")
    return plain.model_copy(update={"mask_kind": kind})


def link_masks(read: Sequence[ReadBackend], set_aside: Collection[str]) -> tuple[Backend, ...]:
    """The backends, each of images with the id of its masks, and masks cut as their images.

    ``set_aside``: ids of backends that hold no images to read. Problems: an id that no backend has,
    or a backend without masks; masks that belong to no images.
    """
    by_id = {part.backend.id: part.backend for part in read}
    owner_of: dict[str, Backend] = {}
    linked: list[Backend] = []
    for part in read:
        backend = part.backend
        if backend.role == "mask":
            linked.append(backend)
            continue
        masks = _masks_of(part, by_id, set_aside)
        backend = backend.model_copy(update={"masks": masks})
        if masks is not None:
            owner_of.setdefault(masks, backend)
        linked.append(backend)
    for part in read:
        backend = part.backend
        if backend.role == "mask" and backend.id not in owner_of:
            message = (
                f"No backend of images names {backend.id} in conditioning_data; name it there, or "
                "disable it."
            )
            part.options.problem(_KIND, "conflict", message)
        _check_source(part, linked)
    return tuple(
        _cut_alike(backend, owner_of[backend.id]) if backend.id in owner_of else backend
        for backend in linked
    )


def _check_source(part: ReadBackend, linked: Sequence[Backend]) -> None:
    """``source_dataset_id`` has to agree with ``conditioning_data``."""
    source, backend = part.options[_SOURCE], part.backend
    if not source:
        return
    if backend.role != "mask":
        part.options.idle("on images", _SOURCE)
    elif not any(other.id == source and other.masks == backend.id for other in linked):
        message = f"Name the masks {backend.id} in conditioning_data of {source[:128]} instead."
        part.options.problem(_SOURCE, "not_implemented", message)


def _cut_alike(masks: Backend, owner: Backend) -> Backend:
    return masks.model_copy(update={name: getattr(owner, name) for name in _SIZES})


def _masks_of(
    part: ReadBackend, by_id: dict[str, Backend], set_aside: Collection[str]
) -> str | None:
    """The id of the backend's masks; None where it has none, or a problem."""
    options = part.options
    ids = _ids(options[DATA])
    if ids is None:
        message = "conditioning_data has to be the id of a backend of masks, or a list of one."
        options.problem(DATA, "bad_value", message)
        return None
    if not ids:
        return None
    if len(ids) > 1:
        message = "Several conditioning_data are not built in this version: name one."
        options.problem(DATA, "not_implemented", message)
        return None
    (id_,) = ids
    masks = by_id.get(id_)
    if masks is not None and masks.role == "mask":
        return id_
    if masks is not None:
        why = "holds no masks: give it dataset_type conditioning and a conditioning_type."
    elif id_ in set_aside:
        why = "is disabled, or holds no images."
    else:
        known = [name for name, backend in by_id.items() if backend.role == "mask"]
        why = f"is no backend here. Those of masks: {', '.join(known) or 'none'}."
    options.problem(DATA, "bad_value", f"conditioning_data: {id_[:128]} {why}")
    return None


def _ids(raw: JsonValue) -> list[str] | None:
    if raw is None or raw == "":
        return []
    if isinstance(raw, str):
        return [raw]
    if isinstance(raw, list):
        ids = [item for item in raw if isinstance(item, str)]
        return ids if len(ids) == len(raw) else None
    return None
