"""Every log line within an attempt, a build, a verification or a request names what it is about."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fleet import Fleet
from tests.support.service import new_tenant, push_photos, run_request

pytestmark = pytest.mark.deep

_OF_THE_PROCESS = {
    "api_started",
    "dispatcher_up",
    "worker_up",
    "indexer_up",
    "indexer_down",
    "worker_stopping",
    "worker_down",
    "leftovers_deleted",
    "broker_down",
    "node_cache_swept",
}


def lacking(lines: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [
        line
        for line in lines
        if line["event"] not in _OF_THE_PROCESS and not all(line.get(name) for name in names)
    ]


def test_every_line_of_a_run_names_it(fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(REVERIE_LOG_FORMAT="json")
    fleet.start_all(trainers=1)
    tenant = new_tenant(fleet, "ada")
    run_id = tenant.submit(run_request(push_photos(tenant), max_train_steps=12))
    assert tenant.wait_over(run_id, deadline_s=240)["status"] == "succeeded"
    tenant.wait_published(run_id)

    trainer = fleet.log_lines("trainer-1")
    names = [line["event"] for line in trainer]
    attempt = trainer[names.index("attempt_started") : names.index("attempt_over") + 1]
    assert {"child_started", "checkpoint_committed", "result_committed"} <= {*names}
    assert lacking(attempt, "run_id", "tenant_id", "fence") == []
    builder = fleet.log_lines("cache_builder")
    assert {"shard_built", "run_admitted"} <= {line["event"] for line in builder}
    assert lacking(builder, "tenant_id") == []
    dispatcher = fleet.log_lines("dispatcher")
    assert {"run_offered"} <= {line["event"] for line in dispatcher}
    assert lacking(dispatcher, "run_id") == []
    results = fleet.log_lines("results")
    assert {"publication_succeeded"} <= {line["event"] for line in results}
    assert lacking(results, "run_id", "tenant_id", "fence") == []
    requests = [line for line in fleet.log_lines("api") if line.get("path", "").startswith("/v1/")]
    assert requests
    assert lacking(requests, "request_id", "tenant_id") == []
