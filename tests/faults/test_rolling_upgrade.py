"""F42: a trainer of the version before works on the new schema, beside new processes."""

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.service import new_tenant, push_photos, run_request
from tests.support.tenant import Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
NEWEST_MIGRATION = "services/store/migrations/versions/0009_start.py"


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the history has no version before: git {arguments[0]} failed")
    return done.stdout


@pytest.fixture
def version_before(tmp_path: Path) -> Path:
    """The code of the commit before the newest migration."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--", NEWEST_MIGRATION).decode().split()
    if not added:
        pytest.skip("the history does not reach back to the newest migration")
    archive = _git("archive", f"{added[-1]}^", "services", "trainer_core")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tmp_path / "before", filter="data")
    return tmp_path / "before"


def test_an_old_trainer_finishes_a_run_on_the_new_schema(
    fleet_of: Callable[..., Fleet], version_before: Path
) -> None:
    assert not (version_before / NEWEST_MIGRATION).exists()
    fleet = fleet_of(fresh=True)  # the old code has no forked trainer
    fleet.start_all(trainers=0)
    # PYTHONSAFEPATH: the current folder has the new code.
    fleet.start("trainer-old", PYTHONPATH=str(version_before), PYTHONSAFEPATH="1")
    tenant = new_tenant(fleet, "ada")
    run_id = tenant.submit(run_request(push_photos(tenant), max_train_steps=12))

    ended = tenant.wait_over(run_id, deadline_s=240)

    assert ended["status"] == "succeeded", fleet.tail("trainer-old")
    assert len(tenant.events(run_id, "run.checkpoint")) >= 2
    assert len(ended["attempts"]) == 1
    assert tenant.wait_published(run_id)["status"] == "succeeded"


def test_a_new_trainer_takes_a_run_over_from_an_old_one(
    fleet_of: Callable[..., Fleet], version_before: Path
) -> None:
    fleet = fleet_of(fresh=True)  # the old code has no forked trainer
    fleet.start_all(trainers=0)
    fleet.start("trainer-old", PYTHONPATH=str(version_before), PYTHONSAFEPATH="1")
    tenant = new_tenant(fleet, "ada")
    run_id = tenant.submit(run_request(push_photos(tenant), max_train_steps=30))
    wait_until(lambda: tenant.events(run_id, "run.checkpoint"), deadline_s=180, what="a checkpoint")

    fleet.processes["trainer-old"].terminate()
    fleet.start("trainer-new")
    ended = tenant.wait_over(run_id, deadline_s=240)

    assert fleet.wait("trainer-old") == 0
    assert (ended["status"], ended["step"]) == ("succeeded", 30)
    first, second = sorted(ended["attempts"], key=lambda attempt: attempt["fence"])
    assert first["outcome"] == "stopped"
    assert second["from_step"] >= 5


def test_a_run_that_an_old_trainer_holds_is_paused_at_its_limit_and_by_its_tenant(
    fleet_of: Callable[..., Fleet], version_before: Path
) -> None:
    fleet = fleet_of(fresh=True)  # the old code has no forked trainer
    fleet.start_all(trainers=0)
    fleet.start("trainer-old", PYTHONPATH=str(version_before), PYTHONSAFEPATH="1")
    tenant = new_tenant(fleet, "ada")
    request = run_request(push_photos(tenant), max_train_steps=2000, checkpoint_step_interval=1000)
    run_id = tenant.submit({**request, "max_gpu_hours": 0.001})

    def wait_paused() -> Json:
        return tenant.wait_for(
            run_id, lambda run: run["status"] == "paused", deadline_s=180, what="the pause"
        )

    at_limit = wait_paused()
    refused = tenant.http.post(f"/v1/runs/{run_id}:resume", json={})
    raised = tenant.http.patch(f"/v1/runs/{run_id}", json={"max_gpu_hours": None})
    tenant.post(f"/v1/runs/{run_id}:resume", {})
    tenant.wait_for(
        run_id, lambda run: run["step"] > at_limit["step"], deadline_s=180, what="another step"
    )
    tenant.post(f"/v1/runs/{run_id}:pause", {})
    by_tenant = wait_paused()

    # An old trainer hands the run back without the reason; the service finds it again.
    assert refused.json()["errors"][0]["code"] == "gpu_hours_limit_reached"
    assert raised.status_code == 200
    for resting in (at_limit, by_tenant):
        assert resting["checkpoint_step"] == resting["step"] > 0
