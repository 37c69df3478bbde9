"""/v1/runs/{run_id}/artifacts and /samples: the files of a run, as signed links."""

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse
from pydantic import Field

from services.api.artifacts.listing import (
    FOLDER,
    PATH,
    RESULT,
    SAMPLE_CURSOR,
    SAMPLES,
    StoredFile,
    file_of_sample,
    files_after,
    find_file,
    find_sample,
    folders_of,
    place_of_sample,
)
from services.api.artifacts.shapes import Preview, Sample
from services.api.errors import NoPreviewError
from services.api.paging import DIGITS, Limit, Page, page_of
from services.api.routing import TenantRoute
from services.api.runs.downloads import EXPIRES_S, signed_file
from services.api.runs.lookup import find_run
from services.api.runs.shapes import File
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import RunId, in_utc
from services.domain.errors import NotFoundError
from services.objects.keys import preview_key
from services.store import run_previews, run_samples
from services.store.run_rows import Run

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

_PREVIEW_FACTS: Final = (
    "step", "picture", "name", "weights", "seed", "width_px", "height_px", "sampler_step",
    "sampler_steps",
)  # fmt: skip
_SAMPLE_FACTS: Final = (
    "step", "prompt", "name", "weights", "width_px", "height_px", "seed", "sampler_steps",
    "guidance", "clip_score", "similarity",
)  # fmt: skip

Folder = Annotated[
    str | None, Query(pattern=FOLDER, description="Only its files: result, checkpoints/step-….")
]
AfterPath = Annotated[
    str | None, Query(pattern=PATH, max_length=1024, description="next_cursor: a path.")
]
AfterSample = Annotated[
    str | None, Query(pattern=SAMPLE_CURSOR, max_length=1024, description="next_cursor: a path.")
]
SampleStep = Annotated[
    int | None, Field(ge=0, le=2**31 - 1), DIGITS, Query(description="Only those of this step.")
]
SampleName = Annotated[
    str | None,
    Query(
        max_length=200,
        pattern=r"^[^\u0000]*$",
        description="Only those of the prompt of this name.",
    ),
]
ArtifactPath = Annotated[
    str, Path(description="With its slashes: result/…, checkpoints/step-…/…, samples/step-…/….")
]


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
        run = find_run(conn, tenant_id, run_id)
        folders = folders_of(conn, run)
        file = find_sample(conn, run, path)
    file = file or find_file(service.objects, folders, path)
    if file is None:
        raise NotFoundError("artifact", path)
    sign = service.objects.sign_head if request.method == "HEAD" else service.objects.sign_get
    return RedirectResponse(
        sign(file.key, expires_s=EXPIRES_S), headers={"Cache-Control": "no-store"}
    )


@router.get("/runs/{run_id}/samples", openapi_extra=needs("runs:read", NotFoundError))
def list_samples(  # noqa: PLR0917 - a route is called by name
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    step: SampleStep = None,
    name: SampleName = None,
    after: AfterSample = None,
) -> Page[Sample]:
    """The pictures that the run made, the newest first: in its result, then while it trained."""
    place = None if after is None else place_of_sample(after)
    with service.database.transaction(tenant_id) as conn:
        run = find_run(conn, tenant_id, run_id)
        rows = run_samples.page(
            conn, tenant_id, run_id, step=step, name=name, after=place, limit=limit + 1
        )
        results = []
        if place is None and name is None:
            results = [
                each
                for each in folders_of(conn, run)
                if each.name == RESULT and step in {None, each.step}
            ]
        prompt = run_samples.newest_prompt(conn, tenant_id, run_id) if results else None
    in_result = (
        file
        for file in files_after(service.objects, results, after)
        if file.path.startswith(SAMPLES)
    )

    def shape(found: StoredFile | run_samples.Sample) -> Sample:
        if isinstance(found, StoredFile):
            told = {"step": results[0].step, "prompt": prompt}
            return _sample(service, run, found, told)
        row = {name: getattr(found, name) for name in _SAMPLE_FACTS}
        facts = {**row, "created_at": in_utc(found.created_at)}
        return _sample(service, run, file_of_sample(run, found), facts)

    found: list[StoredFile | run_samples.Sample] = [*islice(in_result, limit + 1), *rows]
    return page_of(found[: limit + 1], limit, shape, lambda each: each.path)


@router.get(
    "/runs/{run_id}/preview", openapi_extra=needs("runs:read", NotFoundError, NoPreviewError)
)
def get_preview(run_id: RunId, service: ServiceDep, tenant_id: TenantDep) -> Preview:
    """Of the picture that the run is sampling; 404 ``no_preview`` while it samples none."""
    with service.database.transaction(tenant_id) as conn:
        find_run(conn, tenant_id, run_id)
        found = run_previews.find(conn, tenant_id, run_id)
    if found is None:
        raise NoPreviewError(
            "There is a preview only while a picture is sampled, of a run with validation_preview."
        )
    key = preview_key(tenant_id, run_id, found.fence)
    return Preview(
        run_id=run_id,
        **{name: getattr(found, name) for name in _PREVIEW_FACTS},
        created_at=in_utc(found.created_at),
        url=service.objects.sign_get(key, expires_s=EXPIRES_S),
    )


def _sample(service: Service, run: Run, file: StoredFile, facts: Mapping[str, Any]) -> Sample:
    signed = signed_file(service.objects, file.path, file.key, file.facts)
    return Sample(run_id=run.run_id, **facts, **signed.model_dump(exclude={"object"}))
