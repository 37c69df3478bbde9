"""POST /v1/uploads/parts: large files, part by part; ask, send what is missing, ask again.

And /v1/uploads/parts:abort, which deletes the parts.
"""

from fastapi import APIRouter, Response

from services.api.datasets.lookup import find_dataset
from services.api.datasets.part_sizes import PART_BYTES, UPLOAD_EXPIRES_S, part_sizes
from services.api.datasets.shapes import Part, PartsAbort, PartsRequest, UploadParts
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.domain.errors import (
    DatasetNotOpenError,
    InvalidRequestError,
    NotFoundError,
    Problem,
)
from services.objects.keys import upload_key
from services.store import datasets
from services.store.datasets import DatasetFile

router = APIRouter(prefix="/v1", tags=["datasets"], route_class=TenantRoute)


@router.post(
    "/uploads/parts", openapi_extra=needs("datasets:write", NotFoundError, DatasetNotOpenError)
)
def sign_parts(body: PartsRequest, service: ServiceDep, tenant_id: TenantDep) -> UploadParts:
    """The parts of a large file; each one that is not stored has a signed PUT.

    Once all are stored, the next request joins them, and the file is ``present``. 409 where the
    dataset is completed.
    """
    file = _large_file(service, tenant_id, body)
    sizes = _sizes(file, body)
    key, uploads = upload_key(tenant_id, file.sha256), service.objects.parts
    if service.objects.size(key) == file.size_bytes:
        return UploadParts(path=file.path, present=True, parts=[])
    upload_id = uploads.begin(key)
    stored = uploads.sizes(key, upload_id)
    if all(stored.get(number) == size for number, size in enumerate(sizes, 1)):
        uploads.finish(key, upload_id)
        is_stored = service.objects.size(key) == file.size_bytes
        return UploadParts(path=file.path, present=is_stored, parts=[])

    def part(number: int, size_bytes: int, sha256: str) -> Part:
        signed = None
        if stored.get(number) != size_bytes:
            signed = uploads.sign(
                key,
                upload_id,
                number,
                size_bytes=size_bytes,
                sha256=sha256,
                expires_s=UPLOAD_EXPIRES_S,
            )
        return Part(
            number=number,
            size_bytes=size_bytes,
            present=signed is None,
            method=signed.method if signed else None,
            url=signed.url if signed else None,
            headers=signed.headers if signed else {},
        )

    numbered = enumerate(zip(sizes, body.sha256, strict=True), 1)
    parts = [part(number, size_bytes, sha256) for number, (size_bytes, sha256) in numbered]
    return UploadParts(path=file.path, present=False, parts=parts)


@router.post(
    "/uploads/parts:abort",
    status_code=204,
    openapi_extra=needs("datasets:write", NotFoundError, DatasetNotOpenError),
)
def abort_parts(body: PartsAbort, service: ServiceDep, tenant_id: TenantDep) -> Response:
    """Delete the parts of a large file that are stored, and refuse those that are on their way.

    ``/v1/uploads/parts`` begins anew, also for another dataset that lists the same content. A file
    that is joined already stays. Repeating it is harmless.
    """
    file = _large_file(service, tenant_id, body)
    service.objects.parts.drop(upload_key(tenant_id, file.sha256))
    return Response(status_code=204)


def _large_file(service: Service, tenant_id: str, body: PartsRequest | PartsAbort) -> DatasetFile:
    """The file of an open dataset; raises InvalidRequestError where it is none that has parts."""
    with service.database.transaction(tenant_id) as conn:
        dataset = find_dataset(conn, tenant_id, body.dataset_id)
        if dataset.status != "uploading":
            raise DatasetNotOpenError(f"The dataset is {dataset.status}; it accepts no more files.")
        datasets.touch(conn, tenant_id, body.dataset_id)
        file = datasets.find_file(conn, tenant_id, body.dataset_id, body.path)
    if file is None:
        message = "The dataset lists no file with this path."
        raise InvalidRequestError([Problem(pointer="/path", code="not_found", message=message)])
    if not part_sizes(file.size_bytes):
        message = "This file is sent as a whole: POST /v1/uploads has its address."
        raise InvalidRequestError([Problem(pointer="/path", code="bad_value", message=message)])
    return file


def _sizes(file: DatasetFile, body: PartsRequest) -> list[int]:
    """The lengths of its parts; raises InvalidRequestError where the request names others."""
    sizes = part_sizes(file.size_bytes)
    if len(sizes) != len(body.sha256):
        message = f"This file has {len(sizes)} parts of {PART_BYTES} bytes, the last one less."
        raise InvalidRequestError([Problem(pointer="/sha256", code="bad_value", message=message)])
    return sizes
