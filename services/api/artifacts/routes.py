"""/v1/runs/{run_id}/artifacts and /samples: the files of a run, as signed links."""

from itertools import islice
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse

from services.api.artifacts.listing import (
    FOLDER,
    PATH,
    RESULT,
    StoredFile,
    files_after,
    find_file,
    folders_of,
)
from services.api.artifacts.shapes import Sample
from services.api.paging import Limit, Page, page_of
from services.api.routing import TenantRoute
from services.api.runs.downloads import EXPIRES_S, signed_file
from services.api.runs.lookup import find_run
from services.api.runs.shapes import File
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.store import run_samples

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

_SAMPLES: Final = f"{RESULT}/samples/"

Folder = Annotated[
    str | None, Query(pattern=FOLDER, description="Only its files: result, checkpoints/step-….")
]
AfterPath = Annotated[
    str | None, Query(pattern=PATH, max_length=1024, description="next_cursor: a path.")
]
ArtifactPath = Annotated[str, Path(description="With its slashes: result/…, checkpoints/step-…/….")]


@router.get("/runs/{run_id}/artifacts", openapi_extra=needs("runs:read", NotFoundError))
def list_artifacts(  # noqa: PLR0917 - a route is called by name
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    folder: Folder = None,
    after: AfterPath = None,
) -> Page[File]:
    """The files of the result and of the stored checkpoints, the newest first, manifests too."""
    with service.database.transaction(tenant_id) as conn:
        folders = folders_of(conn, find_run(conn, tenant_id, run_id))
    if folder is not None:
        folders = [each for each in folders if each.name == folder]
    files = list(islice(files_after(service.objects, folders, after), limit + 1))
    return page_of(
        files,
        limit,
        lambda file: signed_file(service.objects, file.path, file.key, file.facts),
        lambda file: file.path,
    )


@router.get(
    "/runs/{run_id}/artifacts/{path:path}",
    status_code=307,
    response_class=RedirectResponse,
    openapi_extra=needs("runs:read", NotFoundError),
)
def get_artifact(
    run_id: RunId, path: ArtifactPath, service: ServiceDep, tenant_id: TenantDep, request: Request
) -> RedirectResponse:
    """To a link that is valid for an hour and takes ranges; HEAD leads to one for HEAD."""
    with service.database.transaction(tenant_id) as conn:
        folders = folders_of(conn, find_run(conn, tenant_id, run_id))
    file = find_file(service.objects, folders, path)
    if file is None:
        raise NotFoundError("artifact", path)
    sign = service.objects.sign_head if request.method == "HEAD" else service.objects.sign_get
    return RedirectResponse(
        sign(file.key, expires_s=EXPIRES_S), headers={"Cache-Control": "no-store"}
    )


@router.get("/runs/{run_id}/samples", openapi_extra=needs("runs:read", NotFoundError))
def list_samples(
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    after: AfterPath = None,
) -> Page[Sample]:
    """The pictures that the run made at its end."""
    with service.database.transaction(tenant_id) as conn:
        run = find_run(conn, tenant_id, run_id)
        folders = [each for each in folders_of(conn, run) if each.name == RESULT]
        prompt = run_samples.newest_prompt(conn, tenant_id, run_id) if folders else None
    files = (
        file
        for file in files_after(service.objects, folders, after)
        if file.path.startswith(_SAMPLES)
    )

    def shape(file: StoredFile) -> Sample:
        return Sample(
            run_id=run_id,
            step=folders[0].step,
            prompt=prompt,
            **signed_file(service.objects, file.path, file.key, file.facts).model_dump(
                exclude={"object"}
            ),
        )

    return page_of(list(islice(files, limit + 1)), limit, shape, lambda file: file.path)
