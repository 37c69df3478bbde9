"""POST /v1/uploads/parts: large files, part by part; ask, send what is missing, ask again."""

from fastapi import APIRouter

from services.api.datasets.lookup import find_dataset
from services.api.datasets.part_sizes import PART_BYTES, UPLOAD_EXPIRES_S, part_sizes
from services.api.datasets.shapes import Part, PartsRequest, UploadParts
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
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
    with service.database.transaction(tenant_id) as conn:
        dataset = find_dataset(conn, tenant_id, body.dataset_id)
        if dataset.status != "uploading":
            raise DatasetNotOpenError(f"The dataset is {dataset.status}; it accepts no more files.")
        datasets.touch(conn, tenant_id, body.dataset_id)
        listed = datasets.find_file(conn, tenant_id, body.dataset_id, body.path)
    file, sizes = _checked(listed, body)
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


def _checked(file: DatasetFile | None, body: PartsRequest) -> tuple[DatasetFile, list[int]]:
    """The file and the lengths of its parts; raises InvalidRequestError where it has no such."""
    if file is None:
        message = "The dataset lists no file with this path."
        raise InvalidRequestError([Problem(pointer="/path", code="not_found", message=message)])
    sizes = part_sizes(file.size_bytes)
    if not sizes:
        message = "This file is sent as a whole: POST /v1/uploads has its address."
        raise InvalidRequestError([Problem(pointer="/path", code="bad_value", message=message)])
    if len(sizes) != len(body.sha256):
        message = f"This file has {len(sizes)} parts of {PART_BYTES} bytes, the last one less."
        raise InvalidRequestError([Problem(pointer="/sha256", code="bad_value", message=message)])
    return file, sizes
