"""Builds a run's data index from the files of its datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.cache_builder.indexing.failures import run_damaged
from services.store.admission import BackendData
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.listed import items_of
from trainer_core.errors import Category, TrainerError
from trainer_core.process.failure import Failure


class UnusableDataError(Exception):
    """No index can be built; ``failure`` names the files."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def index_of(
    plan: Plan,
    backends: Sequence[BackendData],
    transformer_config: Mapping[str, Any],
) -> DataIndex:
    """Pair images with captions and assign them to shards; raises UnusableDataError."""
    try:
        items = [item for backend in backends for item in _items_of(plan, backend)]
        return build_index(plan, items, transformer_config)
    except TrainerError as error:
        problems = getattr(error, "problems", ())
        failure = Failure(
            code=problems[0].code if problems else error.code,
            category=Category(error.category),
            message=error.message,
            retryable=False,
        )
        raise UnusableDataError(failure) from error
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        # Not retried: the rows stay as they are.
        failure = Failure(
            code="admission_failed",
            category=Category.PLATFORM,
            message="The run's data could not be prepared; this is a fault of the service.",
            retryable=False,
        )
        raise UnusableDataError(failure) from error


def _items_of(plan: Plan, data: BackendData) -> list[FileItem]:
    (backend,) = [b for b in plan.identity.backends if b.id == data.backend]
    try:
        return items_of(backend, data.files)
    except LookupError as error:  # a ready dataset has verified files only
        raise UnusableDataError(run_damaged()) from error
