"""Rows of a run's pictures: made by its events, so many, and read in pages."""

import pytest

from services.domain.ledger import ChildEvent
from services.store import run_samples
from services.store.run_samples import Sample
from tests.support.run_samples import sample_event
from tests.support.runs import TenantDatabase
from tests.support.sample_rows import BLUE, RED, WRONG, rows_of


def test_a_run_has_so_many_pictures_and_a_warning_says_which_is_the_last(
    tenant_db: TenantDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_samples, "MAX_SAMPLES", 2)
    claim = tenant_db.held()
    for step in (1, 2, 3):
        tenant_db.ledger.event(claim.run_id, claim.fence, [sample_event(step, RED)])
    events = [each for each in tenant_db.events(claim.run_id) if "." not in each.type]
    assert [(each.type, each.step) for each in events] == [
        ("sample", 1), ("sample", 2), ("warning", 2), ("sample", 3),
    ]  # fmt: skip
    assert events[2].data["code"] == "samples_full"
    assert "path" not in events[3].data
    assert [row.step for row in rows_of(tenant_db, claim.run_id)] == [2, 1]
    # One that is there may be made again.
    again = sample_event(2, BLUE)
    tenant_db.ledger.event(claim.run_id, claim.fence, [again])
    assert rows_of(tenant_db, claim.run_id)[0].sha256 == again.data["sha256"]

    monkeypatch.setattr(run_samples, "MAX_SAMPLES_BYTES", len(RED) + 1)
    other = tenant_db.held()
    for step in (1, 2, 3):
        tenant_db.ledger.event(other.run_id, other.fence, [sample_event(step, RED)])
    assert [row.step for row in rows_of(tenant_db, other.run_id)] == [2, 1]


def test_an_event_that_is_no_such_picture_makes_no_row(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    odd = [
        sample_event(1, RED, **changes)
        for name, (changes, _) in WRONG.items()
        if name not in {"other bytes", "longer", "other size", "infinite"}
    ]
    odd.append(sample_event(1, RED, name="x" * 201))
    odd.append(ChildEvent(type="sample", step=1, data={"sha256": None}))
    tenant_db.ledger.event(claim.run_id, claim.fence, odd)
    stored = [each for each in tenant_db.events(claim.run_id) if each.type == "sample"]
    assert len(stored) == len(odd)
    assert not any("path" in each.data or "sha256" in each.data for each in stored)
    assert rows_of(tenant_db, claim.run_id) == []
    tenant_db.ledger.event(claim.run_id, claim.fence, [sample_event(2, RED, prompt="a\0b")])
    assert [row.prompt for row in rows_of(tenant_db, claim.run_id)] == ["ab"]
    tenant_db.ledger.event(
        claim.run_id, claim.fence, [ChildEvent(type="sample", step=3, data={"prompt": "a boat"})]
    )
    assert tenant_db.events(claim.run_id)[-1].data == {"prompt": "a boat"}


def test_pages_are_of_the_newest_step_first(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    made = [
        sample_event(step, RED, name, weights)
        for step in (0, 10, 9)
        for name in ("cat", "Dog", "_b")
        for weights in ("trained", "ema")
    ]
    tenant_db.ledger.event(claim.run_id, claim.fence, made)
    paths = [row.path for row in rows_of(tenant_db, claim.run_id)]
    assert [path.split("/")[1] for path in paths] == (
        ["step-000010"] * 6 + ["step-000009"] * 6 + ["step-000000"] * 6
    )
    for limit in (1, 4):
        found: list[Sample] = []
        while page := rows_of(
            tenant_db,
            claim.run_id,
            limit=limit,
            after=(found[-1].step, found[-1].path) if found else None,
        ):
            found += page
        assert [row.path for row in found] == paths
    assert {row.name for row in rows_of(tenant_db, claim.run_id, name="Dog")} == {"Dog"}
    assert {row.step for row in rows_of(tenant_db, claim.run_id, step=0)} == {0}
    assert rows_of(tenant_db.neighbour(), claim.run_id) == []
