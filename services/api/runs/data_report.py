"""What the service knows of a run's pictures from its lists of files, without reading a file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import JsonValue

from services.api.runs.validation_shapes import BackendData, Bucket, BucketCrops, Cache, Data
from services.api.shapes import ProblemItem, known_status
from services.store import cache_entries, datasets, unusable_entries
from services.store.cache_entries import KnownEntry
from services.store.database import Connection
from services.store.datasets import Dataset
from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.simpletuner.backend_pointers import pointers_to, repointed
from trainer_core.data.buckets import bucket_needs_digest, bucket_size, unfit
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.length import epoch_steps_on, steps_on
from trainer_core.data.listed import items_of
from trainer_core.data.report.crops import buckets_of, fitted
from trainer_core.data.report.model import BucketReport
from trainer_core.data.shards import shards_of, units_of
from trainer_core.errors import TrainerError

_INDEXED_FILES: Final = 2000
"""A run with more files is indexed by a worker only: it would take this process seconds."""
_INDEXED_CAPTION_BYTES: Final = 4 << 20
_SIZES: Final = 5000

Buckets = Counter[tuple[str, int, int]]
"""(backend, width, height) → number of images."""
Crops = Mapping[tuple[str, int, int], BucketReport]
"""(backend, width, height) → what the crops do; empty where they are not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownData:
    """The report, and what estimates are made of."""

    report: Data
    mean_px: float | None
    """Of a picture that is trained on; None where that is not known."""
    largest_px: int | None
    missing_units: dict[str, float] | None
    """Kind of entry → what is to be encoded; None where that is not known."""
    max_steps: int | None = None
    """Optimizer steps of the run; None where its pictures are not known one by one."""
    epoch_steps: float | None = None
    """And of an epoch."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Field of the report → why it is null."""


def data_report(
    conn: Connection,
    tenant_id: str,
    plan: Plan,
    transformer: Mapping[str, Any],
    chosen: Mapping[str, str],
    *,
    written: Sequence[JsonValue],
) -> KnownData:
    """What is known of the datasets of a run; each exists and belongs to an image backend.

    ``written``: the data backends of the request.
    """
    backends = {each.id: each for each in plan.identity.backends}
    rows = {
        backend_id: datasets.get(conn, tenant_id, dataset_id)
        for backend_id, dataset_id in sorted(chosen.items())
    }
    shown = [_backend(conn, backends[each], row) for each, row in rows.items()]
    is_verified = all(each.is_verified for each in shown)
    report = Data(
        backends=shown,
        is_verified=is_verified,
        buckets=None,
        problems=[],
        warnings=[],
        cache=None,
    )
    if not is_verified:
        why = "A dataset is not verified yet."
        return _without(report, {"buckets": why, "cache": why})
    num_files = sum(row.num_files or 0 for row in rows.values())
    caption_bytes = datasets.caption_bytes(conn, tenant_id, list(chosen.values()))
    if num_files > _INDEXED_FILES or caption_bytes > _INDEXED_CAPTION_BYTES:
        return _counted(conn, plan, transformer, rows, report)
    try:
        items, notes = _items_of(conn, plan, rows)
        index = build_index(plan, items, transformer, notes)
        if unusable := unusable_entries.reasons(conn, tenant_id, index.picture_digests()):
            index = build_index(plan, items, transformer, notes, unusable=unusable)
    except TrainerError as error:
        pointers = pointers_to(plan.identity.backends, written)
        problems = [
            ProblemItem(pointer=each.pointer, code=each.code, message=each.message)
            for each in repointed(getattr(error, "problems", ()), pointers)
        ] or [ProblemItem(pointer="", code=error.code, message=error.message)]
        why = "The data has problems."
        changed = report.model_copy(update={"problems": problems})
        return _without(changed, {"buckets": why, "cache": why})
    crops = _crops(plan, index, items, max_area_px(transformer))
    return _indexed(conn, tenant_id, plan, index, report, crops=crops)


def _backend(conn: Connection, backend: Backend, row: Dataset) -> BackendData:
    num_images, num_captions = datasets.count_files(conn, row.tenant_id, row.dataset_id)
    return BackendData(
        backend=backend.id,
        role=backend.role,
        dataset_id=row.dataset_id,
        status=known_status(row.status),
        digest=row.digest,
        num_images=num_images,
        num_captions=num_captions,
        is_verified=row.status == "ready",
    )


def _without(report: Data, unknown: dict[str, str]) -> KnownData:
    return KnownData(
        report=report, mean_px=None, largest_px=None, missing_units=None, unknown=unknown
    )


def _items_of(
    conn: Connection, plan: Plan, rows: Mapping[str, Dataset]
) -> tuple[list[FileItem], list[str]]:
    """All images with their captions, and which files are not used."""
    listings = [
        items_of(
            backend, datasets.files(conn, rows[backend.id].tenant_id, rows[backend.id].dataset_id)
        )
        for backend in plan.identity.backends
    ]
    items = [item for listing in listings for item in listing.items]
    return items, [note for listing in listings for note in listing.notes]


def _crops(plan: Plan, index: DataIndex, items: Sequence[FileItem], max_px: int) -> Crops:
    """What the crops of the images that are used do to them."""
    used = {(sample.backend, sample.path) for sample in index.samples}
    of_backend: dict[str, list[FileItem]] = {each.id: [] for each in plan.identity.backends}
    for item in items:
        if (item.backend, item.path) in used:
            of_backend[item.backend].append(item)
    return {
        (backend.id, each.width_px, each.height_px): each
        for backend in plan.identity.backends
        for each in buckets_of(
            fitted(of_backend[backend.id], backend, max_px),
            backend,
            plan.identity.micro_batch_size,
        )
    }


def _indexed(
    conn: Connection,
    tenant_id: str,
    plan: Plan,
    index: DataIndex,
    report: Data,
    *,
    crops: Crops,
) -> KnownData:
    counts: Buckets = Counter(
        (each.backend, each.width_px, each.height_px) for each in index.samples
    )
    known = cache_entries.known(conn, tenant_id, [entry.digest for entry in index.entries])
    missing: dict[str, float] = {}
    for entry in index.entries:
        if entry.digest not in known or not known[entry.digest].is_stored:
            kind = index.encodings[entry.encoding].kind
            missing[kind] = missing.get(kind, 0.0) + units_of(entry.content)
    changed = report.model_copy(
        update={
            "buckets": _buckets(plan, counts, crops),
            "warnings": list(index.warnings),
            "cache": _cache(index, known),
        }
    )
    return KnownData(
        report=changed,
        mean_px=index.mean_px(),
        largest_px=max(each.width_px * each.height_px for each in index.samples),
        missing_units=missing,
        max_steps=steps_on(plan.identity, index),
        epoch_steps=epoch_steps_on(plan.identity, index),
    )


def _cache(index: DataIndex, known: Mapping[str, KnownEntry]) -> Cache:
    new = shards_of(index, {entry.digest for entry in index.entries} - known.keys())
    stored = {entry.shard for entry in known.values() if entry.is_stored}
    return Cache(
        num_shards=len({entry.shard for entry in known.values()}) + sum(1 for _ in new),
        num_stored=len(stored),
        num_entries=len(index.entries),
        num_entries_stored=sum(entry.is_stored for entry in known.values()),
    )


def _counted(
    conn: Connection,
    plan: Plan,
    transformer: Mapping[str, Any],
    rows: Mapping[str, Dataset],
    report: Data,
) -> KnownData:
    """Buckets from the number of images of each size; images without a caption count, too."""
    why = f"With more than {_INDEXED_FILES:,} files this is told once the run's data is read."
    backends = [each for each in plan.identity.backends if each.role != "mask"]
    if any(bucket_needs_digest(backend) for backend in backends):
        return _without(report, {"buckets": why, "cache": why})
    counts: Buckets = Counter()
    max_px = max_area_px(transformer)
    for backend in backends:
        row = rows[backend.id]
        sizes = datasets.picture_sizes(conn, row.tenant_id, row.dataset_id, _SIZES)
        if len(sizes) == _SIZES:
            why = f"A dataset has images of more than {_SIZES:,} sizes."
            return _without(report, {"buckets": why, "cache": why})
        if backend.max_num_samples is not None and backend.max_num_samples < sum(
            number for _, _, number in sizes
        ):
            why = "max_num_samples chooses among the images once the run's data is read."
            return _without(report, {"buckets": why, "cache": why})
        for width_px, height_px, number in sizes:
            if unfit(width_px, height_px, backend, max_px) is None:
                counts[backend.id, *bucket_size(width_px, height_px, backend, max_px, "")] += number
    if not counts:
        why = "No image has a size that the data backends take."
        return _without(report, {"buckets": why, "cache": why})
    warnings = [
        f"{backend_id}: {row.num_left_out} files of {row.dataset_id} cannot be used; they are left "
        "out."
        for backend_id, row in rows.items()
        if row.num_left_out
    ]
    report = report.model_copy(update={"warnings": warnings})
    found = _buckets(plan, counts, {})
    samples = sum(each.samples_per_epoch for each in found)
    area = sum(each.samples_per_epoch * each.width_px * each.height_px for each in found)
    return KnownData(
        report=report.model_copy(update={"buckets": found}),
        mean_px=area / samples if samples else None,
        largest_px=max(each.width_px * each.height_px for each in found),
        missing_units=None,
        unknown={"cache": why},
    )


def _buckets(plan: Plan, counts: Buckets, crops: Crops) -> list[Bucket]:
    backends = {each.id: each for each in plan.identity.backends}
    return [
        Bucket(
            backend=backend_id,
            role=backends[backend_id].role,
            width_px=width_px,
            height_px=height_px,
            num_images=number,
            repeats=backends[backend_id].repeats,
            samples_per_epoch=number * (1 + backends[backend_id].repeats)
            if backends[backend_id].role == "train"
            else 0,
            crops=_shown(crops.get((backend_id, width_px, height_px))),
        )
        for (backend_id, width_px, height_px), number in sorted(counts.items())
    ]


def _shown(crops: BucketReport | None) -> BucketCrops | None:
    if crops is None:
        return None
    return BucketCrops(
        num_crops=crops.crops,
        loss_mean=crops.crop_loss_mean,
        loss_worst=crops.crop_loss_worst,
        loss_worst_path=crops.crop_loss_worst_file,
        num_enlarged=crops.upscaled,
        enlarged_worst=crops.upscale_worst,
        enlarged_worst_path=crops.upscale_worst_file,
        repeats_to_fill=crops.repeats_to_fill,
    )
