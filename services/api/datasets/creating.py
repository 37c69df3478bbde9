"""POST /v1/datasets. A list of files may be long, so it is read piece by piece, and few at once."""

import re
from collections.abc import Callable
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Final, cast

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from services.api.auditing import AuthorDep
from services.api.datasets.bases import check_against_base, find_base
from services.api.datasets.checked_list import check_list, files_of, removed_of
from services.api.datasets.presenting import shown_dataset
from services.api.datasets.shapes import Dataset
from services.api.idempotency import CreatingRequest, IdempotencyKey, create_once
from services.api.long_lists import CheckedList
from services.api.routing import StreamRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.spooled_body import IN_MEMORY_BYTES, spooled_body
from services.domain.audit import Author
from services.domain.errors import QuotaExceededError
from services.store import audit, dataset_versions, datasets, imports, quotas
from services.store.database import Connection

router = APIRouter(prefix="/v1", tags=["datasets"], route_class=StreamRoute)

BODY_LIMIT_BYTES: Final = 32 << 20
"""Enough for a list of 100,000 files."""
_SHORT_BYTES: Final = 256 << 10
"""A list up to this size is checked at once, by the process that received it."""
# The name as JSON may also write it, with an escape for a letter: no client needs one, so it is not
# looked at which letters they are.
_BASED: Final = re.compile(rb'"based_on"|\\u00(?:5f|6[1-9a-f]|7[0-9a])', re.IGNORECASE)
_DOCUMENTED: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/DatasetRequest"}}
        },
    },
    **needs("datasets:write", QuotaExceededError),
}


@router.post("/datasets", status_code=201, response_model=Dataset, openapi_extra=_DOCUMENTED)
async def create_dataset(
    request: Request,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """A new dataset of these files: 201; 422 names every file that cannot be accepted.

    With ``based_on`` it has the files of that dataset, too, but for those ``removed`` and those
    that have another content here. What was verified in them is not verified again.
    403 ``quota_exceeded`` where the tenant may not store as much, or has too many unfinished ones.
    429 ``rate_limited`` where the tenant's other long lists are not done after 30 s.
    """
    places, long_lists = service.places, service.long_lists
    async with spooled_body(request, BODY_LIMIT_BYTES, tenant_id) as body:
        creating = CreatingRequest(
            service=service,
            tenant_id=tenant_id,
            path=request.url.path,
            key=key,
            fingerprint=body.fingerprint,
        )
        if body.size_bytes <= _SHORT_BYTES and not _seems_based(body.file):
            async with places.requests.one_for(tenant_id):
                return await run_sync(_create_in_thread, creating, author, body.file, check_list)
        async with long_lists.places.one_for(tenant_id):
            check, threads = long_lists.check, long_lists.threads
            return await run_sync(
                _create_in_thread, creating, author, body.file, check, limiter=threads
            )


def _create_in_thread(
    creating: CreatingRequest,
    author: Author,
    body: BinaryIO,
    check: Callable[[BinaryIO, BinaryIO], CheckedList],
) -> JSONResponse:
    service, tenant_id = creating.service, creating.tenant_id
    with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as file:
        rows = cast(BinaryIO, file)

        def prepare() -> CheckedList:
            checked = check(body, rows)
            if checked.based_on is None:
                return checked
            with service.database.transaction(tenant_id) as conn:
                base = check_against_base(conn, tenant_id, checked.based_on, rows)
            return replace(checked, name=checked.name or base.name)

        def insert(conn: Connection, checked: CheckedList) -> Dataset:
            files, size_bytes, base = files_of(rows), checked.size_bytes, checked.based_on
            dataset = datasets.create(conn, tenant_id, checked.name or "", files, based_on=base)
            if base is not None:
                removed = removed_of(rows)
                size_bytes = dataset_versions.take_over(
                    conn, tenant_id, dataset.dataset_id, base=base, removed=removed
                )
            limits = service.settings.quotas
            quotas.check_new_dataset(conn, tenant_id, limits, size_bytes=size_bytes)
            if base is not None:
                find_base(conn, tenant_id, base)  # it may be deleted since
            if checked.source is not None:
                imports.create(conn, tenant_id, dataset.dataset_id, checked.source, checked.csv)
            audit.record(conn, tenant_id, author, "dataset.created", dataset.dataset_id)
            return shown_dataset(conn, dataset)

        return create_once(creating, prepare, insert)


def _seems_based(body: BinaryIO) -> bool:
    """Whether a short body names a base, so that rows are copied: then it goes with long lists."""
    found = _BASED.search(body.read()) is not None
    body.seek(0)
    return found
