"""Which backend of masks belongs to which backend of images."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend
from trainer_core.config.simpletuner.reading import Findings, Options

_SIZES: Final = (
    "resolution_px",
    "aspect_bucket_rounding",
    "crop",
    "crop_style",
    "crop_aspect",
    "minimum_image_size_px",
    "maximum_image_size_px",
    "target_downsample_size_px",
)


@dataclass(frozen=True, slots=True)
class ReadBackend:
    """A backend, and the options that it was read from."""

    backend: Backend
    options: Options


def link_masks(
    read: Sequence[ReadBackend], set_aside: Collection[str], findings: Findings
) -> tuple[Backend, ...]:
    """Images know their masks, and masks are cut as the images that name them.

    ``set_aside``: ids of backends that hold no images to read. Problems: an id that is none, or no
    backend of masks; masks that no images name.
    """
    by_id = {part.backend.id: part.backend for part in read}
    owner_of: dict[str, Backend] = {}
    linked: list[Backend] = []
    for part in read:
        backend = part.backend
        if backend.role == "mask":
            linked.append(backend)
            continue
        masks = _masks_of(part, by_id, set_aside, findings)
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
            findings.problem(part.options.at("conditioning_type"), "conflict", message)
        _check_source(part, linked, findings)
    return tuple(
        _cut_alike(backend, owner_of[backend.id]) if backend.id in owner_of else backend
        for backend in linked
    )


def _check_source(part: ReadBackend, linked: Sequence[Backend], findings: Findings) -> None:
    """SimpleTuner's second way to link says again what conditioning_data says."""
    source, backend = part.options.text("source_dataset_id"), part.backend
    if not source:
        return
    if backend.role != "mask":
        findings.warn(f"source_dataset_id has no effect on the images {backend.id}.")
    elif not any(other.id == source and other.masks == backend.id for other in linked):
        message = f"Name the masks {backend.id} in conditioning_data of {source[:128]} instead."
        findings.problem(part.options.at("source_dataset_id"), "not_implemented", message)


def _cut_alike(masks: Backend, owner: Backend) -> Backend:
    return masks.model_copy(update={name: getattr(owner, name) for name in _SIZES})


def _masks_of(
    part: ReadBackend, by_id: dict[str, Backend], set_aside: Collection[str], findings: Findings
) -> str | None:
    """The id of the backend's masks; None where it has none, or a problem."""
    options = part.options
    raw = options.raw("conditioning_data")
    at = options.at("conditioning_data")
    ids = _ids(raw)
    if ids is None:
        message = "conditioning_data has to be the id of a backend of masks, or a list of one."
        findings.problem(at, "bad_value", message)
        return None
    if not ids:
        return None
    if len(ids) > 1:
        message = "Several conditioning_data are not built in this version: name one."
        findings.problem(at, "not_implemented", message)
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
    findings.problem(at, "bad_value", f"conditioning_data: {id_[:128]} {why}")
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
