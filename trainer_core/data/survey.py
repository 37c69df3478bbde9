"""Look at the data of a run before it runs: what is used, what is left out, what would end it.

Images are decoded as a run decodes them and chosen by the same function, so that both agree. Of
very many images a part is read.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import Problem
from trainer_core.data.buckets import bucket_size, needs_digest
from trainer_core.data.folder import stem_of
from trainer_core.data.images import inspect_image
from trainer_core.data.indexing import Chosen, batch_warnings, choose_images, text_warnings
from trainer_core.data.reading import BackendFolder, Broken, Reading, listed, sort_out
from trainer_core.errors import BadCaptionError, BadImageError

MAX_LOOKED_AT: Final = 20_000
"""The most images of a backend that are decoded: each takes a processor 2 to 200 ms."""
_THREADS: Final = min(8, os.cpu_count() or 1)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """As ``ReadFacts``."""

    sha256: str
    """Empty where nothing depends on it before a run: it takes time to read a file once more."""
    width_px: int
    height_px: int
    has_more: bool


def survey_data(
    plan: Plan,
    folders: Mapping[str, Path],
    *,
    max_px: int,
    base: Path | None = None,
    own: Collection[Path] = (),
    on_progress: OnProgress,
    max_looked_at: int = MAX_LOOKED_AT,
) -> DataSurvey:
    """Survey the images of all backends.

    Args:
        plan: the run.
        folders: backend id → its folder; searched with its sub-folders.
        max_px: the largest area in pixels that the base model takes.
        base: the base model's folder; None where there is none on this machine.
        own: folders that the run writes to, whose files are no data.
        on_progress: called after each image.
        max_looked_at: of the images of one backend.
    """
    found = DataSurvey()
    backends = [listed(each, folders[each.id], own) for each in plan.identity.backends]
    paths = _paths(backends, max_looked_at)
    items = []
    for folder in backends:
        readings = _read(folder, paths[folder.backend.id], on_progress)
        good, broken = sort_out(folder, readings)
        if broken is not None and broken.ends_run:
            found.broken.append(broken)
        elif broken is not None:
            found.warnings.append(broken.warning())
        items += [each.item for each in good]
        found.warnings += folder.notes(good) + _spread_notes(folder, len(readings))
    choice = choose_images(plan, items, max_px)
    if not found.broken:  # what is missing may be missing because of them
        found.problems += choice.problems
    found.chosen += choice.chosen
    found.warnings += choice.warnings
    pictures = {each.backend.id: len(each.files.images) for each in backends}
    if not found.broken and all(len(paths[id_]) == pictures[id_] for id_ in pictures):
        found.warnings += batch_warnings(plan, found.chosen, max_px)
    found.warnings += text_warnings(plan, found.chosen, base)
    for chosen in found.chosen:
        id_ = chosen.backend.id
        found.surveys.append(_survey(chosen, pictures[id_], len(paths[id_]), max_px))
    return found


def _paths(backends: Sequence[BackendFolder], most: int) -> dict[str, Sequence[str]]:
    """Backend id → the images to read. Of masks those that belong to the images to read."""
    paths: dict[str, Sequence[str]] = {}
    for each in backends:
        if each.backend.role != "mask":
            paths[each.backend.id] = _spread(each.files.images, most)
    for each in backends:
        if each.backend.role == "mask":
            users = [
                other.backend.id for other in backends if other.backend.masks == each.backend.id
            ]
            stems = {stem_of(path) for user in users for path in paths[user]}
            paths[each.backend.id] = [p for p in each.files.images if stem_of(p) in stems]
    return paths


def _spread(names: Sequence[str], most: int) -> Sequence[str]:
    """All names, or ``most`` of them, evenly spread."""
    if len(names) <= most:
        return names
    return [names[i * len(names) // most] for i in range(most)]


def _spread_notes(folder: BackendFolder, looked_at: int) -> list[str]:
    pictures = len(folder.files.images)
    if folder.backend.role == "mask" or looked_at == pictures:
        return []
    note = (
        f"{folder.backend.id}: {looked_at} of {pictures} pictures were looked at, evenly spread; "
        "its buckets count these. A run reads all of them before it trains."
    )
    return [note]


def _read(
    folder: BackendFolder, paths: Sequence[str], on_progress: OnProgress
) -> list[Reading | BadImageError | BadCaptionError]:
    facts_of = partial(_facts_of, with_digest=needs_digest(folder.backend))
    readings = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for reading in pool.map(lambda path: folder.read(path, facts_of), paths):
            readings.append(reading)
            on_progress(folder.backend.id, len(readings), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return readings


def _facts_of(path: Path, name: str, *, with_digest: bool) -> _Facts:
    try:
        facts = inspect_image(path, name=name)
        sha256 = _sha256_of(path) if with_digest else ""
    except OSError as error:  # as in a run
        raise BadImageError(f"{name}: {error.strerror}") from error
    return _Facts(
        sha256=sha256, width_px=facts.width_px, height_px=facts.height_px, has_more=facts.has_more
    )


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _survey(chosen: Chosen, pictures: int, looked_at: int, max_px: int) -> Survey:
    buckets: Counter[tuple[int, int]] = Counter()
    for item in chosen.items:
        size = item.width_px, item.height_px
        buckets[bucket_size(*size, chosen.backend, max_px, item.sha256)] += 1
    return Survey(backend=chosen.backend, pictures=pictures, looked_at=looked_at, buckets=buckets)
