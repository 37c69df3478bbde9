"""The OpenAPI document says all that requests and answers may be; schemathesis tries to refute it.

Every answer has a status, a code, headers and a shape that its operation documents, none is a 5xx,
no request that the document forbids is accepted, and one that it allows is refused only for the
reasons that ``openapi_fuzz.refusals`` lists. ``make fuzz`` has the seed and the number of examples.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.domain.ledger import ChildEvent
from services.objects.open import open_store
from services.secrets.envelope import Envelope
from services.settings.env import Settings
from services.store import (
    api_keys,
    datasets,
    deletions,
    gpu_classes,
    members,
    operator_keys,
    run_control,
    tenants,
    webhook_deliveries,
    webhooks,
)
from services.store.database import Database
from tests.integration.openapi_fuzz.command import Fuzzed, Spare, fuzz
from tests.support.api_keys import KEY_PEPPER
from tests.support.finished_runs import finish
from tests.support.fleet import Fleet
from tests.support.run_samples import png, preview_event
from tests.support.runs import TenantDatabase, plan
from tests.support.service import push_unread, run_request
from tests.support.tenant import Json, Tenant

SEEDS = [int(seed) for seed in os.environ.get("FUZZ_SEEDS", "1 2 3").split()]
NEEDS_A_NAME = {"DELETE /v1/tenant", "DELETE /v1/admin/tenants/{tenant_id}"}
"""A tenant that they deleted would be missing for other requests."""
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))


@dataclass(frozen=True, kw_only=True)
class Target:
    """A live API and what to fuzz it with."""

    url: str
    keys: dict[str, str]
    operator: str
    spare: Spare
    run_request: Json
    finished_run: str
    large_upload: Json


@pytest.fixture(scope="module")
def target(fleet_of: Callable[..., Fleet], tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The API with two tenants; the first has datasets and a finished run."""
    fleet = fleet_of(
        REVERIE_SINGLE_TENANT="false",
        REVERIE_QUOTA_REQUESTS_PER_MINUTE="1000000",
        REVERIE_QUOTA_QUEUED_RUNS="100000",
        REVERIE_QUOTA_UPLOADS="100000",
        REVERIE_QUOTA_STORAGE_BYTES=str(1 << 60),
    )
    fleet.start_api()
    database = Database(fleet.env["REVERIE_DATABASE_URL"], max_size=2)
    try:
        ada = TenantDatabase.new(database)
        sampling = ada.held()
        stage = ChildEvent(type="stage", step=0, data={"stage": "sampling"})
        ada.ledger.event(sampling.run_id, sampling.fence, [stage, preview_event(0, png())])
        with database.transaction() as conn:
            gpu_classes.set_price(conn, "cpu", price_micros_per_hour=1, currency="EUR")
            owners = {"ada": ada.tenant_id, "grace": tenants.create_tenant(conn, "grace")}
            made = {
                name: api_keys.create(conn, tenant_id, KEY_PEPPER, name="fuzz")
                for name, tenant_id in owners.items()
            }
            spare_tenant = tenants.create_tenant(conn, "spare")
            over = ada.queued().run_id
            run_control.cancel(conn, ada.tenant_id, over)
            deletions.delete_run(conn, ada.tenant_id, over)
            unused = datasets.create(conn, ada.tenant_id, "unused", [])
            deletion, _ = deletions.delete_dataset(conn, ada.tenant_id, unused.dataset_id)
            webhook = webhooks.create(
                conn,
                ada.tenant_id,
                url="https://example.com",
                events=None,
                seal=lambda _: Envelope(key_id="", sealed_key=b"", ciphertext=b""),
            )
            spare = Spare(
                tenant_id=spare_tenant,
                key_id=api_keys.create(conn, spare_tenant, KEY_PEPPER, name="shown")[0].key_id,
                revoked_id=api_keys.create(conn, spare_tenant, KEY_PEPPER, name="spare")[0].key_id,
                key_ids=[
                    api_keys.create(conn, ada.tenant_id, KEY_PEPPER, name=name)[0].key_id
                    for name in ("spare", "another")
                ],
                member_id=members.create(conn, ada.tenant_id, name="bob", role="owner").member_id,
                deleted_run_id=over,
                sampling_run_id=sampling.run_id,
                deleted_dataset_id=unused.dataset_id,
                deletion_id=deletion.deletion_id,
                webhook_id=webhook.webhook_id,
                delivery_id=webhook_deliveries.test(conn, webhook).delivery_id,
                kept_ids=[id_ for key, _ in made.values() for id_ in (key.key_id, key.member_id)],
            )
            operator = operator_keys.create(conn, KEY_PEPPER, name="fuzz")[1]
        keys = {name: secret for name, (_, secret) in made.items()}
        tenant = Tenant(fleet.url, keys["ada"])
        request = run_request(push_unread(tenant))
        claim = ada.held(plan=plan(), request=request)
        store = open_store(Settings.from_env(fleet.env))
        finish(ada, claim, store, tmp_path_factory.mktemp("run"))
    finally:
        database.close()
    large = {"path": "large.png", "size_bytes": 40 << 20, "sha256": "0" * 64}
    waiting = tenant.post("/v1/datasets", {"name": "large", "files": [large]})
    return Target(
        url=fleet.url,
        keys=keys,
        operator=operator,
        spare=spare,
        run_request=request,
        finished_run=claim.run_id,
        large_upload={"dataset_id": waiting["id"], "path": "large.png", "sha256": ["0" * 64] * 3},
    )


def fuzzed(target: Target, folder: Path, *, phases: str, seed: int, examples: int) -> Fuzzed:
    return fuzz(
        target.url,
        folder,
        keys=target.keys,
        operator=target.operator,
        spare=target.spare,
        run_request=target.run_request,
        finished_run=target.finished_run,
        large_upload=target.large_upload,
        phases=phases,
        seed=seed,
        examples=examples,
    )


def check(found: Fuzzed) -> None:
    """Everything conforms, and every operation was also seen to succeed."""
    print(found.answers)
    assert found.has_passed, found.report
    for label, answers in found.answers.items():
        assert label in NEEDS_A_NAME or any(200 <= status < 400 for status in answers), (
            f"{label}: {answers}"
        )
        assert all(status < 500 for status in answers), f"{label}: {answers}"


@pytest.mark.deep
def test_a_few_requests_of_every_operation(target: Target, tmp_path: Path) -> None:
    found = fuzzed(target, tmp_path, phases="examples,fuzzing", seed=1, examples=3)
    assert found.has_passed, found.report


@pytest.mark.deep
@pytest.mark.parametrize("seed", SEEDS)
def test_thousands_of_requests(target: Target, tmp_path: Path, seed: int) -> None:
    phases = "examples,coverage,fuzzing,stateful"
    found = fuzzed(target, tmp_path, phases=phases, seed=seed, examples=EXAMPLES)
    check(found)
    total = sum(Counter(statuses).total() for statuses in found.answers.values())
    assert total > 2000, found.answers
