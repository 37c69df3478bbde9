"""Admission of one new run: it is admitted with its data index, refused, or postponed."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from services.cache_builder.indexing import failures
from services.cache_builder.indexing.data import UnusableDataError, UnusableOf, index_of
from services.cache_builder.indexing.start import check_start
from services.objects.port import ObjectStore
from services.store.admission import BackendData, StartData
from services.store.cache_entries import NeededEntries, NeededShard
from services.workers.base_models import find_base_model
from services.workers.documents import UnreadableDocumentError, read_plan
from trainer_core.config.plan import Plan
from trainer_core.config.plan.work import Work, work_of
from trainer_core.data.index import DataIndex
from trainer_core.data.length import epoch_steps_on, steps_on
from trainer_core.data.shards import shards_of
from trainer_core.process.failure import Failure

MAX_INDEX_BYTES: Final = 128 << 20
"""Size limit of a data index as JSON text. PostgreSQL limits a jsonb value to 256 MB, and jsonb is
larger than its text."""
CAPTIONS_TO_INDEX: Final = 4
"""Caption files may be larger than the index by this factor: equal captions are stored once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """The run's data is complete and indexed."""

    data_index: str
    """``trainer_core.data.index.DataIndex`` as JSON text."""
    needed: NeededEntries
    warnings: tuple[str, ...]
    work: Work
    max_steps: int
    """Optimizer steps; of a run in epochs, as counted from its data."""
    too_large: Failure
    """The failure to record if the database cannot store the index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The run fails."""

    failure: Failure
    cause: BaseException | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Postponed:
    """The service lacks something that this run needs; it is looked at again later."""

    reason: Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class DataIncomplete:
    """A dataset is still being uploaded or verified."""


Decision: TypeAlias = Admitted | Refused | Postponed | DataIncomplete


def decide(
    plan_json: dict[str, Any],
    base_model: str,
    backends: Sequence[BackendData],
    start: StartData | None = None,
    *,
    models_dir: Path,
    objects: ObjectStore,
    unusable_of: UnusableOf,
    max_index_bytes: int,
) -> Decision:
    """Check datasets, base model and the adapter that a run starts from; build its data index.

    ``unusable_of``: as of ``index_of``.
    """
    named = [backend.dataset for backend in backends]
    if start is not None and start.dataset is not None:
        named.append(start.dataset)
    if failure := failures.rejection_of(named):
        return Refused(failure=failure)
    if any(dataset.status != "ready" for dataset in named):
        return DataIncomplete()
    model = find_base_model(models_dir, base_model)
    if model is None:
        return Postponed(reason=failures.base_model_missing(base_model))
    try:
        plan = read_plan(plan_json)
        if start is not None:
            check_start(start.start, plan, model.transformer_config, objects)
        index = index_of(plan, backends, model, unusable_of)
    except (UnreadableDocumentError, UnusableDataError) as error:
        if error.failure.retryable:  # a newer version wrote the plan, or the store is down
            return Postponed(reason=error.failure)
        return Refused(failure=error.failure, cause=error.__cause__)
    return _check_size(plan, index, model.transformer_config, max_index_bytes)


def _check_size(
    plan: Plan, index: DataIndex, transformer_config: Mapping[str, Any], max_index_bytes: int
) -> Decision:
    text = index.model_dump_json()
    size_bytes = len(text.encode())
    num_captions = sum(len(sample.texts) for sample in index.samples)
    too_large = failures.data_index_too_large(
        len(index.samples), num_captions, size_bytes, max_index_bytes
    )
    if size_bytes > max_index_bytes:
        return Refused(failure=too_large)
    return Admitted(
        data_index=text,
        needed=needed_entries(index),
        warnings=index.warnings,
        work=work_of(
            plan,
            transformer_config,
            image_px=index.mean_px(),
            epoch_steps=epoch_steps_on(plan.identity, index),
            images=Counter(sample.backend for sample in index.samples),
        ),
        max_steps=steps_on(plan.identity, index),
        too_large=too_large,
    )


def needed_entries(index: DataIndex) -> NeededEntries:
    """The cache entries of a run with this data."""

    def new_shards(missing: Collection[str]) -> list[NeededShard]:
        return [
            NeededShard(
                digest=spec.digest(),
                kind=spec.kind,
                spec=spec.model_dump_json(),
                entries=spec.digests(),
            )
            for spec in shards_of(index, missing)
        ]

    return NeededEntries(
        digests=tuple(entry.digest for entry in index.entries), shards_of=new_shards
    )
