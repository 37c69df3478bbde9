"""A backup of the database is restored under a running service: its runs go on, none is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.store.restored_runs import FENCE_STEP
from tests.support.backups import back_up, restore
from tests.support.fleet import Fleet
from tests.support.service import new_tenant, push_photos, run_request

pytestmark = pytest.mark.deep


def test_a_run_goes_on_after_an_older_backup(
    fleet_of: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = fleet_of()
    fleet.start_all(trainers=1)
    tenant = new_tenant(fleet, "ada")
    run_id = tenant.submit(run_request(push_photos(tenant), max_train_steps=60))
    url, backup = fleet.env["REVERIE_DATABASE_URL"], tmp_path / "backup.dump"

    def wait_checkpoint(step: int) -> int:
        def has_it(_: object) -> bool:
            return any(e["step"] >= step for e in tenant.events(run_id, "run.checkpoint"))

        tenant.wait_for(run_id, has_it, deadline_s=180, what=f"a checkpoint of step {step}")
        return max(e["step"] for e in tenant.events(run_id, "run.checkpoint"))

    known_step = wait_checkpoint(5)
    back_up(url, backup)
    newest_step = wait_checkpoint(known_step + 10)

    restore(url, backup)
    fleet.processes["results"].kill()  # it compares when it starts, and every minute
    fleet.wait("results")
    fleet.start("results")
    ended = tenant.wait_over(run_id, deadline_s=240)

    assert ended["status"] == "succeeded"
    assert ended["step"] == 60
    (restored,) = tenant.events(run_id, "run.restored")
    assert restored["data"]["checkpoint_step"] >= newest_step
    assert restored["data"]["reason"]["code"] == "database_restored"
    last = max(attempt["fence"] for attempt in ended["attempts"])
    assert last > FENCE_STEP
    assert tenant.wait_published(run_id)["status"] == "succeeded"
    assert len(tenant.events(run_id, "run.succeeded")) == 1
