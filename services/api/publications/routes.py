"""/v1/publications: publish a result to a folder or to the Hub, and list publications."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from services.api.auditing import AuthorDep
from services.api.idempotency import CreatingDep, create_once
from services.api.paging import After, Limit, Page, check_cursor, check_filter, page_of
from services.api.publications.presenting import publication_shape
from services.api.publications.shapes import HubTarget, Publication, PublicationRequest
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.secrets.choosing import choose_hub_secret
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import PublicationId, RunId
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.domain.ids import is_id
from services.store import audit, publications, secrets
from services.store.database import Connection

router = APIRouter(prefix="/v1", tags=["publications"], route_class=TenantRoute)


@router.post(
    "/publications",
    status_code=201,
    response_model=Publication,
    openapi_extra=needs("publications:write", NotFoundError),
)
def create_publication(
    body: PublicationRequest,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    request: CreatingDep,
) -> JSONResponse:
    """Publish a run's result again, or the adapter of a checkpoint: 201; 422 where it has none."""

    def prepare() -> dict[str, Any]:
        if not is_id(body.run_id, "run"):
            raise NotFoundError("run", body.run_id)
        target = body.target.model_dump(mode="json")
        if isinstance(body.target, HubTarget):
            target["secret"] = _hub_secret(service, tenant_id, body.target)
        return target

    def insert(conn: Connection, target: dict[str, Any]) -> Publication:
        publication = publications.create(
            conn, tenant_id, body.run_id, target, checkpoint_step=body.checkpoint_step
        )
        data = {"run_id": body.run_id, "kind": str(target["kind"])}
        audit.record(
            conn,
            tenant_id,
            author,
            "publication.created",
            publication.publication_id,
            data=data,
        )
        return publication_shape(publication)

    return create_once(request, prepare, insert)


def _hub_secret(service: Service, tenant_id: str, target: HubTarget) -> str | None:
    """The secret that will publish; None: the service's own token. Raises InvalidRequestError."""
    with service.database.transaction(tenant_id) as conn:
        known = secrets.names(conn, tenant_id, "hub")
    chosen = choose_hub_secret(
        known,
        target.secret,
        is_single_tenant=service.settings.single_tenant,
        named_at="/target/secret",
        publishes_at="/target/kind",
    )
    if isinstance(chosen, Problem):
        raise InvalidRequestError([chosen])
    return chosen


@router.get("/publications", openapi_extra=needs("publications:read"))
def list_publications(
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    after: After[PublicationId] = None,
    run_id: Annotated[RunId | None, Query(description="Only those of this run.")] = None,
) -> Page[Publication]:
    """Newest first."""
    cursor = check_cursor(after, "pub")
    check_filter("run_id", run_id, "run")
    with service.database.transaction(tenant_id) as conn:
        rows = publications.list_page(conn, tenant_id, limit + 1, cursor, run_id=run_id)
    return page_of(rows, limit, publication_shape, lambda row: row.publication_id)


@router.get(
    "/publications/{publication_id}", openapi_extra=needs("publications:read", NotFoundError)
)
def get_publication(
    publication_id: PublicationId, service: ServiceDep, tenant_id: TenantDep
) -> Publication:
    """404 where there is none, or it is another tenant's."""
    if not is_id(publication_id, "pub"):
        raise NotFoundError("publication", publication_id)
    with service.database.transaction(tenant_id) as conn:
        return publication_shape(publications.get(conn, tenant_id, publication_id))
