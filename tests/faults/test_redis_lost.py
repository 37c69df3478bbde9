"""Redis is flushed and restarted empty while runs wait and train: all finish, none twice."""

from collections.abc import Callable

import pytest

from tests.support.fleet import Fleet
from tests.support.redis import RedisServer
from tests.support.service import new_tenant, push_photos, run_request


@pytest.mark.deep
def test_losing_all_of_redis_loses_no_run(
    fleet_of: Callable[..., Fleet], shared_redis_server: RedisServer
) -> None:
    fleet = fleet_of()
    fleet.start_all(trainers=1)
    tenant = new_tenant(fleet, "ada")
    datasets = push_photos(tenant)
    shared_redis_server.flush()  # while the datasets wait to be verified

    runs = [tenant.submit(run_request(datasets, max_train_steps=12, seed=n)) for n in range(3)]
    tenant.wait_for(
        runs[0],
        lambda run: run["stage"] == "training" and run["step"] >= 1,
        deadline_s=180,
        what="the first run to train",
    )
    shared_redis_server.restart_empty()

    ended = [tenant.wait_over(run_id, deadline_s=240) for run_id in runs]

    assert [run["status"] for run in ended] == ["succeeded"] * 3
    assert [run["step"] for run in ended] == [12] * 3
    for run_id in runs:
        assert len(tenant.events(run_id, "run.succeeded")) == 1
        assert tenant.wait_published(run_id)["status"] == "succeeded"
    assert [len(run["attempts"]) for run in ended] == [1] * 3  # the first run was not interrupted
