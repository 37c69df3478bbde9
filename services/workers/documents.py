"""The stored documents of a run, as a worker of this version reads them."""

from collections.abc import Mapping
from typing import Any

import pydantic
import structlog

from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)


class UnreadableDocumentError(Exception):
    """The document cannot be read by this version; ``failure`` is what the tenant reads.

    It is retryable where a newer version can read it. Otherwise nobody can, and it stays as it is.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def read_plan(stored: Mapping[str, Any]) -> Plan:
    """Raises UnreadableDocumentError."""
    try:
        return Plan.model_validate(stored)
    except pydantic.ValidationError as error:
        _log_unreadable("plan", error)
        # An older plan lacks something, and may have what was removed since.
        is_newer = all(
            each["type"] == "extra_forbidden" or each["loc"] == ("version",)
            for each in error.errors()
        )
        message = (
            "A newer version of the service resolved this run; it waits for a worker of that "
            "version."
            if is_newer
            else "Another version of the service resolved this run, and this one cannot read it: "
            "submit the run again."
        )
        raise UnreadableDocumentError(
            Failure(
                code="plan_of_other_version",
                category=Category.PLATFORM,
                message=message,
                retryable=is_newer,
            )
        ) from error


def read_index(stored: Mapping[str, Any]) -> DataIndex:
    """Raises UnreadableDocumentError.

    It is retryable for an index of an earlier version: the run is indexed again.
    """
    if stored.get("version") == 1:  # its cache has the shards of before
        raise UnreadableDocumentError(
            Failure(
                code="data_index_of_other_version",
                category=Category.PLATFORM,
                message="An earlier version of the service indexed the data of this run; it is "
                "indexed again.",
                retryable=True,
            )
        )
    try:
        return DataIndex.model_validate(stored)
    except pydantic.ValidationError as error:
        _log_unreadable("data_index", error)
        raise UnreadableDocumentError(
            Failure(
                code="data_index_unreadable",
                category=Category.PLATFORM,
                message="The stored data index of the run cannot be read by this worker: submit "
                "the run again.",
                retryable=False,
            )
        ) from error


def _log_unreadable(document: str, error: pydantic.ValidationError) -> None:
    wrong = error.errors(include_input=False, include_url=False)  # inputs are the tenant's
    log.error("document_unreadable", document=document, errors=[e["loc"] for e in wrong[:10]])
