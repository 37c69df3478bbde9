"""Checks whether a run can start from the adapter that it names."""

from collections.abc import Mapping
from typing import Any

from services.cache_builder.indexing import failures
from services.cache_builder.indexing.data import UnusableDataError
from services.domain.failures import start_damaged, store_failed
from services.domain.starts import StoredStart, shown
from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
    ObjectTooBigError,
)
from services.objects.port import ObjectStore
from services.objects.starts import find_stored_start
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.errors import AdapterFileError
from trainer_core.weights.start_adapter import misfit, stored_adapter


def check_start(
    start: StoredStart, plan: Plan, transformer_config: Mapping[str, Any], objects: ObjectStore
) -> None:
    """Raise UnusableDataError where the run cannot start from the stored adapter.

    The API has checked one that was stored when the run was submitted. The failure is retryable
    where the object store does not answer, or refuses.
    """
    adapter = plan.identity.adapter
    assert adapter is not None  # full rank starts from none
    linears = hidream_linears(transformer_config)
    try:
        found = find_stored_start(objects, start)
        assert found.header is not None
        stored = stored_adapter(found.name, found.header, linears, found.state)
        if why := misfit(adapter, stored, linears):
            raise AdapterFileError(f"{found.name} does not fit the adapter of this run: {why}")
    except AdapterFileError as error:
        raise UnusableDataError(failures.start_unusable(error.message)) from error
    except (ObjectMissingError, ObjectTooBigError) as error:
        raise UnusableDataError(start_damaged(shown(start))) from error
    except (ObjectStoreDownError, ObjectStoreRefusedError) as error:
        raise UnusableDataError(store_failed(error.code)) from error
