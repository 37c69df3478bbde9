"""The row of a run's newest preview: replaced, told once a picture, and gone with its stage."""

from typing import Any

import pytest

from services.domain.errors import LeaseLostError
from services.domain.ledger import ChildEvent, Claim, Outcome
from services.domain.quotas import Quotas
from services.store import quotas, run_previews
from services.store.run_previews import Preview
from tests.support.run_samples import png, preview_event, sample_path
from tests.support.runs import LEASE, TenantDatabase

BODY = png()


def stage(name: str, step: int = 0) -> ChildEvent:
    return ChildEvent(type="stage", step=step, data={"stage": name})


def report(tenant: TenantDatabase, claim: Claim, *events: ChildEvent) -> None:
    tenant.ledger.event(claim.run_id, claim.fence, events)


def found(tenant: TenantDatabase, claim: Claim) -> Preview | None:
    with tenant.database.transaction() as conn:
        return run_previews.find(conn, tenant.tenant_id, claim.run_id)


def told(tenant: TenantDatabase, claim: Claim) -> list[dict[str, Any]]:
    return [each.data for each in tenant.events(claim.run_id) if each.type == "preview"]


def storage_bytes(tenant: TenantDatabase) -> int | float:
    with tenant.database.transaction() as conn:
        return quotas.read(conn, tenant.tenant_id, Quotas())["storage_bytes"].used


def test_each_preview_replaces_the_one_before_and_the_first_of_a_picture_is_told(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    assert found(tenant_db, claim) is None
    report(tenant_db, claim, stage("sampling"))
    before = storage_bytes(tenant_db)
    for sampler_step in (1, 2, 2, 3):  # the reply to the second one was lost
        report(tenant_db, claim, preview_event(0, BODY, sampler_step))
    dog = {"picture": sample_path(0, "dog"), "name": "dog", "size_bytes": 9}
    other = preview_event(0, BODY, 1, **dog)
    report(tenant_db, claim, other, preview_event(0, BODY, 2, **dog))

    row = found(tenant_db, claim)
    assert row is not None
    assert (row.name, row.sampler_step, row.sampler_steps, row.fence) == ("dog", 2, 4, claim.fence)
    assert (row.picture, row.width_px, row.height_px) == (sample_path(0, "dog"), 64, 48)
    assert told(tenant_db, claim) == [preview_event(0, BODY, 1).data, other.data]
    assert storage_bytes(tenant_db) - before == 9
    neighbour = tenant_db.neighbour()
    with tenant_db.database.transaction() as conn:
        assert run_previews.find(conn, neighbour.tenant_id, claim.run_id) is None


def test_a_preview_goes_when_another_stage_begins_and_one_that_comes_late_is_ignored(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    report(tenant_db, claim, preview_event(0, BODY))
    assert found(tenant_db, claim) is None  # it samples nothing yet
    report(tenant_db, claim, stage("sampling"), preview_event(0, BODY))
    assert found(tenant_db, claim) is not None
    report(tenant_db, claim, preview_event(0, BODY, 2), stage("training"))
    assert found(tenant_db, claim) is None
    report(tenant_db, claim, preview_event(0, BODY, 3))
    assert found(tenant_db, claim) is None
    assert len(told(tenant_db, claim)) == 1


def test_the_preview_of_an_attempt_that_has_ended_is_neither_shown_nor_replaced_by_it(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    before = storage_bytes(tenant_db)
    report(tenant_db, claim, stage("sampling"), preview_event(0, BODY))
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    assert found(tenant_db, claim) is None
    assert storage_bytes(tenant_db) == before
    tenant_db.due_now(claim.run_id)
    again = tenant_db.ledger.claim(claim.run_id, worker_id=tenant_db.worker(), lease=LEASE)
    assert again is not None
    assert found(tenant_db, claim) is None
    report(tenant_db, again, stage("sampling"), preview_event(0, BODY, 4))

    with pytest.raises(LeaseLostError):
        report(tenant_db, claim, preview_event(0, BODY, 2))

    row = found(tenant_db, claim)
    assert row is not None
    assert (row.fence, row.sampler_step) == (again.fence, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"picture": "samples/../secret.png"},
        {"picture": None},
        {"name": "x" * 201},
        {"weights": "other"},
        {"width_px": 513},
        {"height_px": 0},
        {"sampler_step": "1"},
        {"size_bytes": (1 << 20) + 1},
        {"seed": 2**63},
    ],
)
def test_an_event_that_is_no_preview_makes_no_row(
    tenant_db: TenantDatabase, changes: dict[str, Any]
) -> None:
    claim = tenant_db.held()
    report(tenant_db, claim, stage("sampling"), preview_event(0, BODY, **changes))
    assert found(tenant_db, claim) is None
    assert told(tenant_db, claim) == []
