"""The newest preview of a run on its way to the store, and what is left out or given up."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from services.domain.ledger import ChildEvent
from services.objects.errors import ObjectStoreDownError, ObjectStoreRefusedError
from services.objects.keys import preview_key
from services.results.sweep import sweep_runs
from services.trainer import previews as previews_module
from tests.support.held_pictures import Held, next_attempt
from tests.support.run_samples import preview_event
from tests.support.sample_rows import BLUE, RED


@pytest.fixture
def sampling(held: Held, monkeypatch: pytest.MonkeyPatch) -> Held:
    """It samples a picture; previews may follow each other at once."""
    monkeypatch.setattr(previews_module, "_EVERY_S", 0.0)
    held.report(ChildEvent(type="stage", step=0, data={"stage": "sampling"}))
    return held


def test_each_preview_replaces_the_one_before_in_the_store(sampling: Held) -> None:
    claim = sampling.claim
    key = preview_key(claim.tenant_id, claim.run_id, claim.fence)
    for sampler_step, body in ((1, RED), (2, BLUE)):
        sampling.preview(sampler_step, body)
        sampling.wait()
        row = sampling.newest_preview()
        assert row is not None
        assert (row.sampler_step, row.size_bytes) == (sampler_step, len(body))
        assert sampling.store.get_bytes(key, limit_bytes=1 << 20) == body
    assert list(sampling.store.list_keys("tenants/")) == [key]
    assert len(sampling.events("preview")) == 1
    assert [each.name for each in sampling.output.parent.iterdir()] == ["output"]

    def sweep() -> int:
        with sampling.tenant.database.transaction() as conn:
            conn.execute("UPDATE runs SET sweep_after = clock_timestamp() - interval '1 second'")
        return sweep_runs(sampling.tenant.database, sampling.store)

    assert sweep() == 0
    next_attempt(sampling.tenant, claim)
    assert sampling.newest_preview() is None
    assert sweep() == 1
    assert sampling.store.size(key) is None


def test_previews_that_come_while_one_is_stored_are_left_out(sampling: Held) -> None:
    gate: Future[None] = Future()
    sampling.start(gate.result)  # the store takes its time
    for sampler_step in (1, 2, 3):
        sampling.preview(sampler_step, RED)
    gate.set_result(None)
    sampling.wait()
    row = sampling.newest_preview()
    assert row is not None
    assert row.sampler_step == 1
    sampling.preview(4, BLUE)
    sampling.wait()
    row = sampling.newest_preview()
    assert row is not None
    assert row.sampler_step == 4


def test_a_preview_that_cannot_be_stored_is_forgotten(
    sampling: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews_module, "_PAUSE_S", 0.0)
    for error in (ObjectStoreDownError("away"), ObjectStoreRefusedError("no right")):
        sampling.store.error = error
        sampling.preview(1, RED)
        sampling.wait()
    sampling.store.error = None
    for changes in ({"width_px": 65}, {"weights": "other"}):
        sampling.preview(1, RED, **changes)
        sampling.wait()
    for body in (b"", b"GIF89a", RED + bytes(1 << 20)):
        sampling.preview(1, body)
        sampling.wait()
    file = sampling.output.joinpath(*previews_module.FILE)
    file.unlink()
    event = preview_event(0, RED)
    sampling.previews.take(event)  # the picture is done by now
    sampling.wait()
    secret = tmp_path / "secret.png"
    secret.write_bytes(RED)
    file.symlink_to(secret)
    sampling.previews.take(event)
    sampling.wait()

    assert sampling.newest_preview() is None
    assert list(sampling.store.list_keys("tenants/")) == []
    assert (sampling.reported, sampling.events("preview")) == ([], [])
    file.unlink()
    sampling.preview(2, RED)
    sampling.wait()
    assert sampling.newest_preview() is not None
