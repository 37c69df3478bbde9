"""/v1/datasets and /v1/uploads: what there is, upload what is missing, complete."""

from dataclasses import asdict
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from services.api.auditing import AuthorDep
from services.api.datasets.lookup import find_dataset
from services.api.datasets.part_sizes import PART_BYTES, UPLOAD_EXPIRES_S, part_sizes
from services.api.datasets.presenting import (
    change_shape,
    file_shape,
    shown_dataset,
    shown_datasets,
)
from services.api.datasets.shapes import (
    MAX_LISTED,
    Dataset,
    DatasetDiff,
    DatasetDiffTotals,
    DatasetFile,
    Upload,
    UploadsRequest,
)
from services.api.paging import DIGITS, After, Limit, Page, check_cursor, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import DatasetId, Text
from services.domain.errors import (
    DatasetIncompleteError,
    DatasetNotOpenError,
    InvalidRequestError,
    NotFoundError,
    Problem,
)
from services.objects.keys import upload_key
from services.store import audit, dataset_versions, datasets, imports
from services.store.database import Connection
from services.store.datasets import Dataset as DatasetRow
from services.store.datasets import DatasetFile as FileRow

router = APIRouter(prefix="/v1", tags=["datasets"], route_class=TenantRoute)

_Limit = Annotated[int, Field(ge=1, le=MAX_LISTED), DIGITS, Query(description="Items a page.")]
_MAX_NAMED: Final = 100
_UPLOADS_BYTES: Final = 1 << 20
_FILES_AT_ONCE: Final = 1000


@router.get("/datasets", openapi_extra=needs("datasets:read"))
def list_datasets(
    service: ServiceDep, tenant_id: TenantDep, limit: Limit = 20, after: After[DatasetId] = None
) -> Page[Dataset]:
    """Newest first."""
    cursor = check_cursor(after, "ds")
    with service.database.transaction(tenant_id) as conn:
        rows = shown_datasets(conn, datasets.list_page(conn, tenant_id, limit + 1, cursor))
    return page_of(rows, limit, lambda row: row, lambda row: row.id)


@router.get("/datasets/{dataset_id}", openapi_extra=needs("datasets:read", NotFoundError))
def get_dataset(dataset_id: DatasetId, service: ServiceDep, tenant_id: TenantDep) -> Dataset:
    """404 where there is none, or it is another tenant's."""
    with service.database.transaction(tenant_id) as conn:
        return shown_dataset(conn, find_dataset(conn, tenant_id, dataset_id))


@router.get("/datasets/{dataset_id}/files", openapi_extra=needs("datasets:read", NotFoundError))
def list_dataset_files(  # noqa: PLR0917 - FastAPI calls it by names
    dataset_id: DatasetId,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: _Limit = 100,
    after: After[Text] = None,
    left_out: Annotated[
        Literal["only"] | None, Query(description="Only files that cannot be used.")
    ] = None,
) -> Page[DatasetFile]:
    """The files of a dataset by path."""
    cursor = _path_of(after)
    with service.database.transaction(tenant_id) as conn:
        find_dataset(conn, tenant_id, dataset_id)
        rows = datasets.files_page(
            conn, tenant_id, dataset_id, limit + 1, cursor, left_out=left_out is not None
        )
    return page_of(rows, limit, file_shape, lambda row: row.path)


@router.get("/datasets/{dataset_id}/diff", openapi_extra=needs("datasets:read", NotFoundError))
def diff_datasets(  # noqa: PLR0917 - FastAPI calls it by names
    dataset_id: DatasetId,
    against: Annotated[DatasetId, Query(description="The dataset to compare with.")],
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: _Limit = 100,
    after: After[Text] = None,
) -> DatasetDiff:
    """What is added, removed and changed from one dataset to another, by path.

    404 where one of them is not the tenant's.
    """
    cursor, totals = _path_of(after), None
    with service.database.transaction(tenant_id) as conn:
        for each in (dataset_id, against):
            find_dataset(conn, tenant_id, each)
        if cursor is None:
            counts = dataset_versions.count_changes(conn, tenant_id, dataset_id, against)
            totals = DatasetDiffTotals(**asdict(counts))
        rows = dataset_versions.changes_page(
            conn, tenant_id, dataset_id, against, limit=limit + 1, after_path=cursor or ""
        )
    page = page_of(rows, limit, change_shape, lambda row: row.path)
    return DatasetDiff(
        before=dataset_id,
        after=against,
        totals=totals,
        changes=page.data,
        has_more=page.has_more,
        next_cursor=page.next_cursor,
    )


def _path_of(after: str | None) -> str | None:
    """The cursor of a list of files, if it can be one; raises InvalidRequestError."""
    if after is not None and "\0" in after:
        message = "This is not a next_cursor of this list."
        raise InvalidRequestError(
            [Problem(pointer="query:after", code="bad_value", message=message)]
        )
    return after


@router.post("/uploads", openapi_extra=needs("datasets:write", NotFoundError, DatasetNotOpenError))
def sign_uploads(body: UploadsRequest, service: ServiceDep, tenant_id: TenantDep) -> Page[Upload]:
    """The dataset's files by path; each one that is not stored has a signed PUT.

    Large ones are sent in parts (``/v1/uploads/parts``). 409 where the dataset is completed.
    """
    with service.database.transaction(tenant_id) as conn:
        dataset = find_dataset(conn, tenant_id, body.dataset_id)
        if dataset.status != "uploading":
            raise DatasetNotOpenError(f"The dataset is {dataset.status}; it accepts no more files.")
        _check_not_imported(conn, dataset)
        datasets.touch(conn, tenant_id, body.dataset_id)
        rows = datasets.files_page(
            conn,
            tenant_id,
            body.dataset_id,
            body.limit + 1,
            body.after,
            unverified=body.skip_verified,
        )
    shown = rows[: body.limit]
    present = dict(zip(shown, _are_stored(service, tenant_id, shown), strict=True))
    return page_of(
        rows,
        body.limit,
        lambda file: _upload(service, tenant_id, file, is_stored=present[file]),
        lambda file: file.path,
        most_bytes=_UPLOADS_BYTES,
    )


@router.post(
    "/datasets/{dataset_id}:complete",
    status_code=202,
    openapi_extra=needs(
        "datasets:write", NotFoundError, DatasetIncompleteError, DatasetNotOpenError
    ),
)
def complete_dataset(
    dataset_id: DatasetId, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> Dataset:
    """No more files: 202, and verification starts. 409 names files that are not uploaded.

    Repeating it is harmless.
    """
    with service.database.transaction(tenant_id) as conn:
        dataset = find_dataset(conn, tenant_id, dataset_id)
        if dataset.status != "uploading":
            return shown_dataset(conn, dataset)
        _check_not_imported(conn, dataset)
    missing = _missing(service, tenant_id, dataset_id)
    if missing:
        problems = [
            Problem(pointer=path, code="missing", message=f"{path} is not uploaded.")
            for path in missing[:_MAX_NAMED]
        ]
        raise DatasetIncompleteError(len(missing), problems)
    with service.database.transaction(tenant_id) as conn:
        completed = datasets.complete(conn, tenant_id, dataset_id)
        audit.record(conn, tenant_id, author, "dataset.completed", dataset_id)
        return shown_dataset(conn, completed)


def _check_not_imported(conn: Connection, dataset: DatasetRow) -> None:
    """Raises DatasetNotOpenError where the service fetches the files of an open dataset itself."""
    if imports.find(conn, dataset.tenant_id, [dataset.dataset_id]):
        raise DatasetNotOpenError(
            "The service fetches the files of this dataset from its source, and completes it."
        )


def _missing(service: Service, tenant_id: str, dataset_id: str) -> list[str]:
    """The paths of the files that are not uploaded. No transaction is open meanwhile.

    Those that were verified in the dataset that it is based on are stored.
    """
    missing: list[str] = []
    after: str | None = None
    while True:
        with service.database.transaction(tenant_id) as conn:
            files = datasets.files_page(
                conn, tenant_id, dataset_id, _FILES_AT_ONCE, after, unverified=True
            )
        stored = _are_stored(service, tenant_id, files)
        missing += [file.path for file, there in zip(files, stored, strict=True) if not there]
        if len(files) < _FILES_AT_ONCE:
            return missing
        after = files[-1].path


def _are_stored(service: Service, tenant_id: str, files: list[FileRow]) -> list[bool]:
    sizes = service.sizes([upload_key(tenant_id, file.sha256) for file in files])
    return [size == file.size_bytes for size, file in zip(sizes, files, strict=True)]


def _upload(service: Service, tenant_id: str, file: FileRow, *, is_stored: bool) -> Upload:
    signed, is_large = None, bool(part_sizes(file.size_bytes))
    if not is_stored and not is_large:
        signed = service.objects.sign_put(
            upload_key(tenant_id, file.sha256),
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            expires_s=UPLOAD_EXPIRES_S,
        )
    return Upload(
        path=file.path,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        present=is_stored,
        part_size_bytes=PART_BYTES if is_large else None,
        method=signed.method if signed else None,
        url=signed.url if signed else None,
        headers=signed.headers if signed else {},
    )
