"""Builds a run's data index from the files of its datasets."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from services.cache_builder.indexing.failures import run_damaged
from services.store.admission import BackendData
from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.data.listed import Listing, items_of
from trainer_core.errors import Category, TrainerError
from trainer_core.process.failure import Failure

UnusableOf = Callable[[Sequence[str]], Mapping[str, str]]


class UnusableDataError(Exception):
    """No index can be built; ``failure`` names the files."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def index_of(
    plan: Plan,
    backends: Sequence[BackendData],
    base: BaseModel,
    unusable_of: UnusableOf,
) -> DataIndex:
    """Pair images with captions and masks, and name their cache entries.

    Args:
        unusable_of: takes digests of entries; those that cannot be encoded, and why.

    Raises UnusableDataError.
    """
    try:
        listings = [_items_of(plan, backend) for backend in backends]
        items = [item for listing in listings for item in listing.items]
        notes = [note for listing in listings for note in listing.notes]
        made = partial(build_index, plan, items, base.transformer_config, notes, base.folder)
        index = made()
        unusable = unusable_of(index.picture_digests())
        return made(unusable=unusable) if unusable else index
    except TrainerError as error:
        problems = getattr(error, "problems", ())
        # Without pointers: the plan leaves out backends that the request has.
        messages = [problem.message for problem in problems] or [error.message]
        failure = Failure(
            code=problems[0].code if problems else error.code,
            category=Category(error.category),
            message=" ".join(messages),
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


def _items_of(plan: Plan, data: BackendData) -> Listing:
    (backend,) = [b for b in plan.identity.backends if b.id == data.backend]
    try:
        return items_of(backend, data.files)
    except LookupError as error:  # a ready dataset has verified files only
        raise UnusableDataError(run_damaged()) from error
