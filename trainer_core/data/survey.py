"""Look at the data of a run before it runs: what is used, what is left out, what would end it.

Images are decoded as a run decodes them and chosen by the same function, so that both agree. Of
very many images a part is read.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import Problem
from trainer_core.config.plan.shapes import LATENT_CELL_PX
from trainer_core.data.buckets import Geometry, bucket_size, geometries_of
from trainer_core.data.collecting import EntryCollector, mask_encoding_of, picture_of
from trainer_core.data.folder import stem_of
from trainer_core.data.images import load_mask
from trainer_core.data.index import FileItem
from trainer_core.data.indexing import (
    Chosen,
    Usable,
    batch_warnings,
    captions_cut,
    choose_images,
    cut_warnings,
    usable_of,
)
from trainer_core.data.mask_levels import BLACK_CROP
from trainer_core.data.reading import BackendFolder, Broken, Reading, listed, sort_out
from trainer_core.data.report.examine import EXAMINERS, Examined
from trainer_core.data.report.making import Seen, report_of
from trainer_core.data.report.model import DataReport, Depth
from trainer_core.data.report.shown import FileKey, spread
from trainer_core.errors import BadCaptionError, BadImageError

MAX_LOOKED_AT: Final[Mapping[Depth, int]] = {"pixels": 20_000, "headers": 200_000}
"""The most images of a backend that are looked at. To decode one takes a processor 2 to 200 ms, to
read its header a tenth of a millisecond."""
_THREADS: Final = min(8, os.cpu_count() or 1)

_HEADERS_NOTE: Final = (
    "Only the headers of images were read: damaged images, copies, images that look the same, "
    "further frames, transparent parts and black masks are not found."
)

OnProgress = Callable[[str, int, int], None]
"""Called with a backend's id, the number of images read so far and the number to read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The images of one backend, for training or held out."""

    backend: Backend
    pictures: int
    looked_at: int
    """The number of images that were read, evenly spread; the buckets count these."""
    buckets: Counter[tuple[int, int]]
    """(width, height) of a bucket in pixels → number of usable images."""


@dataclass(slots=True)
class DataSurvey:
    """The data of a run; the run would end where a backend is broken or there are problems."""

    surveys: list[Survey] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    """The usable images among those looked at."""
    broken: list[Broken] = field(default_factory=list)
    """Backends of which more than half cannot be used."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    report: DataReport | None = None
    """All of this in numbers; None only until it is made."""
    files: dict[FileKey, Path] = field(default_factory=dict)
    """Where each image and mask is that was looked at."""


def survey_data(
    plan: Plan,
    folders: Mapping[str, Path],
    *,
    max_px: int,
    base: Path | None = None,
    own: Collection[Path] = (),
    on_progress: OnProgress,
    depth: Depth = "pixels",
    max_looked_at: int | None = None,
) -> DataSurvey:
    """Survey the images of all backends.

    Args:
        plan: the run.
        folders: backend id → its folder; searched with its sub-folders.
        max_px: the largest area in pixels that the base model takes.
        base: the base model's folder; None where there is none on this machine.
        own: folders that the run writes to, whose files are no data.
        on_progress: called after each image.
        depth: how closely images are looked at.
        max_looked_at: of the images of one backend; None: as ``MAX_LOOKED_AT``.
    """
    found = DataSurvey()
    backends = [listed(each, folders[each.id], own) for each in plan.identity.backends]
    paths = _paths(backends, max_looked_at or MAX_LOOKED_AT[depth])
    looks = [_looked_at(each, paths[each.backend.id], depth, on_progress) for each in backends]
    if depth == "headers":
        found.warnings.append(_HEADERS_NOTE)
    items: list[FileItem] = []
    for look in looks:
        good, broken = sort_out(look.folder, look.readings)
        if broken is not None and broken.ends_run:
            found.broken.append(broken)
        elif broken is not None:
            found.warnings += broken.warnings()
        items += [each.item for each in good]
        found.files |= {(each.item.backend, each.item.path): each.path for each in good}
        found.warnings += look.folder.notes(good) + _spread_notes(look)
    choice = choose_images(plan, items, max_px)
    if not found.broken:  # what is missing may be missing because of them
        found.problems += choice.problems
    found.warnings += choice.warnings
    usable = _usable(plan, choice.chosen, found.files, max_px, depth)
    found.chosen += usable.chosen
    found.warnings += usable.warnings
    if not found.broken:
        found.problems += usable.problems
    if not found.broken and all(look.is_whole for look in looks):
        found.warnings += batch_warnings(plan, found.chosen, max_px)
    captions = captions_cut(found.chosen, base)
    found.warnings += cut_warnings(plan, captions, base)
    by_id = {look.folder.backend.id: look for look in looks}
    for chosen in found.chosen:
        look = by_id[chosen.backend.id]
        found.surveys.append(_survey(chosen, look, max_px))
    used = {each.backend.id: each.items for each in found.chosen}
    having_mask = {each.backend.id: each.items for each in choice.chosen}
    seen = [look.seen(used.get(id_, ()), having_mask.get(id_, ())) for id_, look in by_id.items()]
    found.report = report_of(plan.identity, seen, captions, max_px, depth)
    return found


def _usable(
    plan: Plan,
    chosen: Sequence[Chosen],
    files: Mapping[FileKey, Path],
    max_px: int,
    depth: Depth,
) -> Usable:
    """The images of which a crop can be used: not those whose masks are black on all crops."""
    masked = [
        (each.masks.backend, each.masks.of(item), geometry)
        for each in chosen
        if each.masks is not None and depth == "pixels"
        for item in each.items
        for geometry in geometries_of(
            item.width_px, item.height_px, each.backend, max_px, item.sha256
        )
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        is_black = pool.map(
            lambda each: _is_black(each[0], each[1], each[2], files[each[1].backend, each[1].path]),
            masked,
        )
        black = {
            mask_encoding_of(backend).digest_of(picture_of(mask, geometry)): BLACK_CROP
            for (backend, mask, geometry), found in zip(masked, is_black, strict=True)
            if found
        }
    if not black:
        return Usable(chosen=chosen, samples=(), problems=(), warnings=())
    return usable_of(plan, chosen, max_px, EntryCollector(plan, black))


def _is_black(backend: Backend, mask: FileItem, geometry: Geometry, file: Path) -> bool:
    """Whether a mask is black on the whole crop, as ``encode`` looks at it."""
    kind = backend.mask_kind or "mask"
    levels = load_mask(file, geometry, kind, LATENT_CELL_PX, name=mask.path)
    return levels.getextrema() == (0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """The images of one backend that were looked at."""

    folder: BackendFolder
    paths: Sequence[str]
    readings: Sequence[Reading | BadImageError | BadCaptionError]
    """In the order of the paths."""
    examined: Mapping[str, Examined]
    """Path → what the picture is."""

    @property
    def is_whole(self) -> bool:
        return len(self.paths) == len(self.folder.files.images)

    def seen(self, used: Sequence[FileItem], having_mask: Sequence[FileItem]) -> Seen:
        """For the report.

        Args:
            used: the images that the run uses.
            having_mask: those and the ones whose mask is black on all crops.
        """
        return Seen(
            backend=self.folder.backend,
            folder=str(self.folder.folder.resolve()),
            images=len(self.folder.files.images),
            paths=self.paths,
            readings=self.readings,
            examined=self.examined,
            used=used,
            black={item.path for item in having_mask} - {item.path for item in used},
        )


def _looked_at(
    folder: BackendFolder, paths: Sequence[str], depth: Depth, on_progress: OnProgress
) -> _Look:
    """Look at images, several at once."""
    examine = EXAMINERS[depth]
    examined: dict[str, Examined] = {}

    def facts_of(path: Path, name: str) -> Examined:
        try:
            found = examine(path, name=name, is_mask=folder.backend.role == "mask")
        except OSError as error:  # as in a run
            raise BadImageError(f"{name}: {error.strerror}") from error
        examined[name] = found
        return found

    readings = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for reading in pool.map(lambda path: folder.read(path, facts_of), paths):
            readings.append(reading)
            on_progress(folder.backend.id, len(readings), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return _Look(folder=folder, paths=paths, readings=readings, examined=examined)


def _paths(backends: Sequence[BackendFolder], most: int) -> dict[str, Sequence[str]]:
    """Backend id → the images to read. Of masks those that belong to the images to read."""
    paths: dict[str, Sequence[str]] = {}
    for each in backends:
        if each.backend.role != "mask":
            paths[each.backend.id] = spread(each.files.images, most)
    for each in backends:
        if each.backend.role == "mask":
            users = [
                other.backend.id for other in backends if other.backend.masks == each.backend.id
            ]
            stems = {stem_of(path) for user in users for path in paths[user]}
            paths[each.backend.id] = [p for p in each.files.images if stem_of(p) in stems]
    return paths


def _spread_notes(look: _Look) -> list[str]:
    backend = look.folder.backend
    if backend.role == "mask" or look.is_whole:
        return []
    note = (
        f"{backend.id}: {len(look.paths)} of {len(look.folder.files.images)} pictures were looked "
        "at, evenly spread; its buckets count these. A run reads all of them before it trains."
    )
    return [note]


def _survey(chosen: Chosen, look: _Look, max_px: int) -> Survey:
    buckets: Counter[tuple[int, int]] = Counter()
    for item in chosen.items:
        size = item.width_px, item.height_px
        buckets[bucket_size(*size, chosen.backend, max_px, item.sha256)] += 1
    return Survey(
        backend=chosen.backend,
        pictures=len(look.folder.files.images),
        looked_at=len(look.paths),
        buckets=buckets,
    )
