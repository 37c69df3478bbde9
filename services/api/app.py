"""The API as an ASGI application."""

import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import BinaryIO, Final

import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from services.api import health
from services.api.admin import routes as admin
from services.api.api_keys import routes as api_keys
from services.api.artifacts import routes as artifacts
from services.api.audit_log import routes as audit_log
from services.api.base_models import BaseModels
from services.api.batches import routes as batches
from services.api.batches.shapes import SweepRange
from services.api.datasets import creating, parts
from services.api.datasets import routes as datasets
from services.api.datasets.checked_list import check_list
from services.api.datasets.shapes import DatasetRequest
from services.api.deletions import routes as deletions
from services.api.deprecation import DEPRECATED, Deprecations
from services.api.edge import RequestEdge
from services.api.events import routes as events
from services.api.events.hub import STREAM_READERS, EventHub
from services.api.forwarded import ForwardedClients
from services.api.gpu_types import routes as gpu_types
from services.api.key_guesses import KeyGuesses
from services.api.logs import routes as logs
from services.api.long_lists import LISTS_AT_WORK, CheckedList, LongLists
from services.api.members import routes as members
from services.api.objects.routes import objects_router
from services.api.openapi import DESCRIPTION, openapi_document
from services.api.places import (
    BATCHES_AT_ONCE,
    KEYS_AT_ONCE,
    OPERATORS_AT_ONCE,
    REQUESTS_AT_ONCE,
    WORKERS_AT_ONCE,
    RequestPlaces,
)
from services.api.problems import install_handlers
from services.api.publications import routes as publications
from services.api.routing import check_routes
from services.api.run_metrics import routes as run_metrics
from services.api.run_reading import routes as run_reading
from services.api.runs import attempts, clone_routes, validation_routes
from services.api.runs import control as run_control
from services.api.runs import routes as runs
from services.api.secrets import routes as secrets
from services.api.secrets.sealing_key import sealing_key
from services.api.service import Service
from services.api.tenant import routes as tenant
from services.api.usage import routes as usage
from services.api.webhooks import deliveries as webhook_deliveries
from services.api.webhooks import routes as webhooks
from services.api.worker import routes as worker
from services.objects.folder_store import FolderStore
from services.objects.open import open_store
from services.settings.env import Settings
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.store.scoped_database import ScopedDatabase

log = structlog.get_logger(__name__)

_UNSCOPED_CONNECTIONS: Final = KEYS_AT_ONCE + OPERATORS_AT_ONCE + 1
"""The last one is for /readyz."""
_SCOPED_CONNECTIONS: Final = (
    REQUESTS_AT_ONCE + OPERATORS_AT_ONCE + BATCHES_AT_ONCE + STREAM_READERS + LISTS_AT_WORK
)
_STATEMENT_TIMEOUT: Final = timedelta(seconds=10)
_LOOKUPS: Final = 16


def check_settings(settings: Settings) -> None:
    """Raise the SettingsError that ``create_app`` would raise; starts no thread."""
    _ = settings.database_url, settings.key_pepper
    sealing_key(settings)
    open_store(settings)


def create_app(
    settings: Settings,
    check: Callable[[BinaryIO, BinaryIO], CheckedList] = check_list,
    deprecated: Deprecations = DEPRECATED,
) -> FastAPI:
    """The application; it opens no connection before it starts.

    Raises SettingsError, and RouteWithoutScopeError for a route under /v1 that everybody could use.

    Args:
        check: checks long lists of files, as ``check_list`` does.
        deprecated: operations that will go away.
    """
    url = settings.database_url
    unscoped = Database(url, max_size=_UNSCOPED_CONNECTIONS, statement_timeout=_STATEMENT_TIMEOUT)
    worker_database = Database(url, max_size=WORKERS_AT_ONCE, statement_timeout=_STATEMENT_TIMEOUT)
    service = Service(
        settings=settings,
        database=ScopedDatabase(
            url,
            max_size=_SCOPED_CONNECTIONS,
            statement_timeout=_STATEMENT_TIMEOUT,
        ),
        unscoped=unscoped,
        worker_database=worker_database,
        ledger=PostgresLedger(
            worker_database,
            max_attempts=settings.max_attempts,
            max_infra_failures=settings.max_infra_failures,
            half_life=timedelta(seconds=settings.share_half_life_s),
        ),
        objects=open_store(settings),
        base_models=BaseModels(settings.models_dir),
        events=EventHub(unscoped, streams_per_tenant=settings.streams_per_tenant),
        key_guesses=KeyGuesses(),
        key_pepper=settings.key_pepper,
        places=RequestPlaces(),
        long_lists=LongLists(check=check),
        lookups=ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup"),
        sealing_key=sealing_key(settings),
    )
    app = FastAPI(
        title="Reverie",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # the page would load its scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        # FastAPI's own would follow clients' traces, and send queries and client addresses.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service, app.state.deprecated = service, deprecated
    if settings.http.trusted_proxies:
        app.add_middleware(ForwardedClients, most=settings.http.connections_per_client)
    app.add_middleware(RequestEdge)  # the outermost
    install_handlers(app)
    plans = (validation_routes, clone_routes)
    shown = (attempts, events, logs, run_metrics, artifacts)
    of_runs = (runs, run_reading, *plans, run_control, *shown, batches)
    of_webhooks = (webhooks, webhook_deliveries)
    of_tenants = (creating, datasets, parts, *of_runs, publications, secrets, deletions)
    of_access = (members, api_keys, tenant, gpu_types, usage, audit_log)
    for noun in (health, *of_tenants, *of_webhooks, *of_access, admin, worker):
        app.include_router(noun.router)
    if isinstance(service.objects, FolderStore):
        app.include_router(objects_router(service.objects))
    check_routes(app.routes)
    app.openapi = lambda: openapi_document(app, [DatasetRequest, SweepRange], deprecated)  # type: ignore[method-assign]  # FastAPI's own way
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start and stop of the process.

    It does not start where the object store ignores If-None-Match: two workers could then both
    believe that they committed.
    """
    service: Service = app.state.service
    try:
        await run_in_threadpool(service.objects.prove_conditional_writes)
        service.events.start()
        log.info("api_started", api_url=service.settings.api_url)
        yield
    finally:
        service.events.close()
        service.lookups.shutdown(wait=False, cancel_futures=True)
        await run_in_threadpool(service.database.close)
        await run_in_threadpool(service.unscoped.close)
        await run_in_threadpool(service.worker_database.close)
        log.info("api_stopped")
