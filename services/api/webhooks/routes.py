"""/v1/webhooks: make, list, show, change and delete webhooks, and replace their secrets."""

from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from services.api.auditing import AuthorDep
from services.api.errors import SecretsOffError
from services.api.idempotency import CreatingDep, create_once
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.validators import ExpectedVersionDep
from services.api.webhooks.lookup import CheckedWebhookId
from services.api.webhooks.presenting import new_webhook_shape, webhook_shape
from services.api.webhooks.shapes import (
    NewWebhook,
    RotateSecretRequest,
    Webhook,
    WebhookId,
    WebhookPatch,
    WebhookRequest,
)
from services.domain.audit import Facts
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.domain.webhooks import address_problem, new_signing_secret
from services.secrets.sealing import seal
from services.store import audit, webhooks
from services.store.database import Connection
from services.store.webhooks import Seal

_ROTATE: Final = RotateSecretRequest()
router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=TenantRoute)


@router.get("/webhooks", openapi_extra=needs("webhooks:read"))
def list_webhooks(
    service: ServiceDep, tenant_id: TenantDep, limit: Limit = 20, after: After[WebhookId] = None
) -> Page[Webhook]:
    """Newest first."""
    cursor = check_cursor(after, "wh")
    with service.database.transaction(tenant_id) as conn:
        rows = webhooks.list_page(conn, tenant_id, limit + 1, cursor)
    return page_of(rows, limit, webhook_shape, lambda row: row.webhook_id)


@router.post(
    "/webhooks",
    status_code=201,
    response_model=NewWebhook,
    openapi_extra=needs("webhooks:write", SecretsOffError),
)
def create_webhook(
    body: WebhookRequest,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    request: CreatingDep,
) -> JSONResponse:
    """A new webhook: 201, and this once its ``secret``. A tenant has at most 10.

    A replay of the request has null as its secret, since nobody can read it any more.
    """

    def prepare() -> tuple[str, Seal]:
        _check_address(service, body.url)
        return _new_secret(service)

    def insert(conn: Connection, made: tuple[str, Seal]) -> NewWebhook:
        secret, seal_it = made
        row = webhooks.create(conn, tenant_id, url=body.url, events=body.events, seal=seal_it)
        audit.record(conn, tenant_id, author, "webhook.created", row.webhook_id)
        return new_webhook_shape(row, secret)

    return create_once(request, prepare, insert, shown_once=["secret"])


@router.get("/webhooks/{webhook_id}", openapi_extra=needs("webhooks:read", NotFoundError))
def get_webhook(webhook_id: CheckedWebhookId, service: ServiceDep, tenant_id: TenantDep) -> Webhook:
    """What it is for, and whether it works; never its secret."""
    with service.database.transaction(tenant_id) as conn:
        return webhook_shape(webhooks.get(conn, tenant_id, webhook_id))


@router.patch("/webhooks/{webhook_id}", openapi_extra=needs("webhooks:write", NotFoundError))
def change_webhook(
    webhook_id: CheckedWebhookId,
    body: WebhookPatch,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    expected: ExpectedVersionDep,
) -> Webhook:
    """A merge patch: 200 and the changed webhook. Events on their way go to the new address."""
    given = body.model_fields_set
    if "url" in given:
        _check_address(service, body.url)
    with service.database.transaction(tenant_id) as conn:
        row = webhooks.lock(conn, tenant_id, webhook_id)
        expected.check(row.version)
        changed = webhooks.change(
            conn,
            row,
            url=body.url if "url" in given else row.url,
            events=body.events if "events" in given else row.events,
            enabled=body.enabled if "enabled" in given else row.disabled_at is None,
        )
        data: Facts = {"changed": sorted(given)}
        audit.record(conn, tenant_id, author, "webhook.changed", webhook_id, data=data)
        return webhook_shape(changed)


@router.delete(
    "/webhooks/{webhook_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=needs("webhooks:write", NotFoundError),
)
def delete_webhook(
    webhook_id: CheckedWebhookId, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> None:
    """Nothing more is sent to it; its secret and its deliveries are deleted."""
    with service.database.transaction(tenant_id) as conn:
        webhooks.delete(conn, webhooks.lock(conn, tenant_id, webhook_id))
        audit.record(conn, tenant_id, author, "webhook.deleted", webhook_id)


@router.post(
    "/webhooks/{webhook_id}:rotate-secret",
    status_code=201,
    response_model=NewWebhook,
    openapi_extra=needs("webhooks:write", NotFoundError, SecretsOffError),
)
def rotate_webhook_secret(
    webhook_id: CheckedWebhookId,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    request: CreatingDep,
    body: RotateSecretRequest = _ROTATE,
) -> JSONResponse:
    """A new secret: 201, and this once the secret. Both sign until the grace time is over."""

    def insert(conn: Connection, made: tuple[str, Seal]) -> NewWebhook:
        secret, seal_it = made
        row = webhooks.lock(conn, tenant_id, webhook_id)
        grace = timedelta(seconds=body.grace_s)
        rotated = webhooks.rotate_secret(conn, row, seal_it, grace=grace)
        audit.record(conn, tenant_id, author, "webhook.secret_rotated", webhook_id)
        return new_webhook_shape(rotated, secret)

    return create_once(
        request,
        lambda: _new_secret(service),
        insert,
        collection="/v1/webhooks",
        shown_once=["secret"],
    )


def _check_address(service: Service, url: str) -> None:
    """Raises InvalidRequestError."""
    message = address_problem(url, service.settings.webhook_networks)
    if message is not None:
        raise InvalidRequestError([Problem(pointer="/url", code="bad_value", message=message)])


def _new_secret(service: Service) -> tuple[str, Seal]:
    """A secret, and what seals it. Raises SecretsOffError."""
    key = service.sealing_key
    if key is None:
        raise SecretsOffError(
            "This service sends to no webhooks: its operator has set no key for their secrets."
        )
    secret = new_signing_secret()
    return secret, lambda place: seal(SecretStr(secret), place, key)
