"""A run of an adapter on several ranks, in the service."""

import signal
from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.service import push_photos, run_request
from tests.support.tenant import Tenant

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of()
    fleet.start_all(trainers=1)
    return fleet


def test_two_ranks_stop_with_their_trainer_and_go_on_in_another(
    fleet: Fleet, tenant: Tenant
) -> None:
    steps = 60
    run_id = tenant.submit(run_request(push_photos(tenant), num_processes=2, max_train_steps=steps))
    tenant.wait_for(run_id, lambda run: run["step"] >= 6, deadline_s=120, what="six steps")

    fleet.signal("trainer-1", signal.SIGTERM)
    assert fleet.wait("trainer-1") == 0
    between = tenant.run(run_id)
    fleet.start("trainer-1")

    run = tenant.wait_over(run_id, deadline_s=240)
    assert run["status"] == "succeeded", run["status_reason"]
    assert 6 <= between["step"] < run["step"] == steps
    assert tenant.wait_published(run_id)["status"] == "succeeded"
    log = "".join(each["text"] for each in tenant.get(f"/v1/runs/{run_id}/logs?tail=500")["data"])
    assert log.count("2 ranks: the adapter's gradients are summed once a step") == 2
