"""The dependencies of all routes, created once per process and shared by all requests."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.api.base_models import BaseModels
from services.api.events.hub import EventHub
from services.api.key_guesses import KeyGuesses
from services.api.long_lists import LongLists
from services.api.places import RequestPlaces
from services.domain.access import Actor, Operator, RemoteWorker
from services.objects.port import ObjectStore
from services.secrets.keys import PublicKey
from services.settings.env import Settings
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.store.scoped_database import ScopedDatabase


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    settings: Settings
    database: ScopedDatabase
    """For the requests of tenants."""
    unscoped: Database
    """Rows of all tenants, only to find out whose a key is, for operators, for notifications and
    for /readyz."""
    worker_database: Database
    """Rows of all tenants, for the requests of remote workers."""
    ledger: PostgresLedger
    """The same database as ``worker_database``."""
    objects: ObjectStore
    base_models: BaseModels
    events: EventHub
    key_guesses: KeyGuesses
    key_pepper: bytes
    """The secret with which API keys are stored."""
    lookups: ThreadPoolExecutor
    """For many small requests to the object store at once."""
    places: RequestPlaces
    long_lists: LongLists
    sealing_key: PublicKey | None
    """Seals tenants' secrets; None where the operator has set none."""

    def sizes(self, keys: list[str]) -> Iterator[int | None]:
        """Length in bytes of each object, in order; None where there is none."""
        return self.lookups.map(self.objects.size, keys)


async def service_of(request: Request) -> Service:
    """Dependency: the service of this process."""
    service: Service = request.app.state.service
    return service


async def tenant_of(request: Request) -> str:
    """Dependency: the tenant whose API key TenantRoute checked."""
    tenant_id: str = request.state.tenant_id
    return tenant_id


async def actor_of(request: Request) -> Actor:
    """Dependency: the API key that TenantRoute checked."""
    actor: Actor = request.state.actor
    return actor


async def operator_of(request: Request) -> Operator:
    """Dependency: the operator's key that OperatorRoute checked."""
    operator: Operator = request.state.operator
    return operator


async def worker_of(request: Request) -> RemoteWorker:
    """Dependency: the remote worker's key that WorkerRoute checked."""
    worker: RemoteWorker = request.state.worker
    return worker


ServiceDep = Annotated[Service, Depends(service_of)]
TenantDep = Annotated[str, Depends(tenant_of)]
ActorDep = Annotated[Actor, Depends(actor_of)]
OperatorDep = Annotated[Operator, Depends(operator_of)]
WorkerDep = Annotated[RemoteWorker, Depends(worker_of)]
