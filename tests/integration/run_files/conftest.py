"""An API behind a proxy that breaks connections, and a run that succeeded."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from services.client.client import Client
from services.client.retry import Retry
from services.domain.ledger import ChildEvent, Claim
from services.objects.folders import put_folder
from services.objects.keys import result_prefix, sample_key
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.settings.env import Settings
from services.store.database import Database
from tests.integration.run_files.contents import RESULT, STATE, STEPS
from tests.support.api_keys import new_api_key
from tests.support.finished_runs import closed_folder, commit_checkpoint
from tests.support.fleet import Fleet
from tests.support.proxy import FaultProxy
from tests.support.run_samples import png, sample_event
from tests.support.runs import TenantDatabase, plan
from tests.support.service import database_of

PATIENT = Retry(tries=8, first_wait_s=0.05, limit_s=0.2)


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    return fleet_of(REVERIE_SINGLE_TENANT="false")


@pytest.fixture(scope="module")
def proxy(fleet: Fleet) -> Iterator[FaultProxy]:
    """Before the API, whose signed links lead through it."""
    with FaultProxy(fleet.port).running() as proxy:
        fleet.start("api", REVERIE_API_URL=f"http://127.0.0.1:{proxy.port}")
        fleet.wait_ready()
        yield proxy


@pytest.fixture(scope="module")
def store(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture(scope="module")
def tenant_db(store: Database) -> TenantDatabase:
    return TenantDatabase.new(store)


@pytest.fixture(scope="module")
def objects(fleet: Fleet) -> ObjectStore:
    return open_store(Settings.from_env(fleet.env))


@pytest.fixture(scope="module")
def claim(
    tenant_db: TenantDatabase, objects: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Claim:
    """A run that succeeded, with three checkpoints and a result."""
    folder = tmp_path_factory.mktemp("run")
    claim = tenant_db.held(plan=plan(checkpoints=3))
    scope = (claim.tenant_id, claim.run_id, claim.fence)
    state = closed_folder(folder / "state", STATE)
    for step in STEPS:
        commit_checkpoint(tenant_db, claim, objects, state, step)
    for step, name in ((0, "cat"), (20, "cat"), (20, "桜")):
        body = png((step, 0, 0))
        event = sample_event(step, body, name, "trained" if step else "base")
        objects.put_bytes(sample_key(*scope, event.data["sha256"]), body)
        tenant_db.ledger.event(claim.run_id, claim.fence, [event])
    sample = ChildEvent(type="sample", step=30, data={"prompt": "a boat"})
    tenant_db.ledger.event(claim.run_id, claim.fence, [sample])
    files = put_folder(objects, result_prefix(*scope), closed_folder(folder / "result", RESULT))
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, files, step=30)
    return claim


@pytest.fixture(scope="module")
def key(tenant_db: TenantDatabase) -> str:
    with tenant_db.database.transaction() as conn:
        return new_api_key(conn, tenant_db.tenant_id)


@pytest.fixture
def client(fleet: Fleet, proxy: FaultProxy, key: str) -> Iterator[Client]:
    with Client(fleet.url, key, retry=PATIENT) as client:
        yield client
    proxy.set("ok")


@pytest.fixture
def http(fleet: Fleet, proxy: FaultProxy, key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=fleet.url, headers=headers) as http:
        yield http
