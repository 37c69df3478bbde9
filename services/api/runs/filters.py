"""Which runs a list shows: by batch, status, metadata and time."""

from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from pydantic import Field, TypeAdapter, ValidationError

from services.api.paging import check_filter
from services.api.runs.shapes import MetadataKey, MetadataValue, RunStatus
from services.api.shapes import BatchId, Moment
from services.domain.errors import InvalidRequestError, Problem
from services.store.run_lists import RunFilter

_METADATA: Final = TypeAdapter(Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)])
METADATA_PARAMETER: Final[dict[str, Any]] = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "style": "deepObject",
    "explode": True,
    "description": "Only runs with all of these pairs: `metadata[team]=blue`.",
    "schema": {**_METADATA.json_schema(), "additionalProperties": False},
}
"""FastAPI has no parameters of this style."""


def run_filter(
    request: Request,
    batch_id: Annotated[BatchId | None, Query(description="Only those of this batch.")] = None,
    status: Annotated[RunStatus | None, Query(description="Only those of this status.")] = None,
    created_after: Annotated[
        Moment | None, Query(description="Only those that were created later.")
    ] = None,
    created_before: Annotated[
        Moment | None, Query(description="Only those that were created earlier.")
    ] = None,
) -> RunFilter:
    """Dependency: what the query asks for; raises InvalidRequestError."""
    check_filter("batch_id", batch_id, "bat")
    return RunFilter(
        batch_id=batch_id,
        status=status,
        metadata=_metadata(request),
        created_after=created_after,
        created_before=created_before,
    )


def _metadata(request: Request) -> dict[str, str]:
    """The pairs of ``metadata[team]=blue``; raises InvalidRequestError."""
    given = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.items()
        if name.startswith("metadata[")
    }
    try:
        found = _METADATA.validate_python(given)
    except ValidationError as error:
        raise InvalidRequestError([_problem(each["msg"]) for each in error.errors()]) from None
    if any("\0" in text for pair in found.items() for text in pair):
        raise InvalidRequestError([_problem("It has a character NUL, which no metadata has")])
    return found


def _problem(message: str) -> Problem:
    return Problem(pointer="query:metadata", code="bad_value", message=f"{message}.")


RunFilterDep = Annotated[RunFilter, Depends(run_filter)]
