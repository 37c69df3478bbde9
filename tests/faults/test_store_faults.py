"""F21 to F23: the S3 server is overloaded, slow or silent, or its answers are lost.

The server is Ceph RGW. F24, conflicting writes, is tested with the contract of the object stores.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxied import INTERVAL, LEASE_S, ProxiedService, ServiceOn
from tests.faults.random import rows, stored
from tests.support.objects import open_bucket
from tests.support.proxy import FaultProxy, Mode
from tests.support.rgw import Bucket
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

TRAINER = "trainer-1"


@pytest.fixture(scope="module")
def service(service_on: ServiceOn, bucket: Bucket) -> Iterator[ProxiedService]:
    with service_on(bucket) as service:
        service.start(TRAINER)
        yield service


@pytest.fixture
def proxy(service: ProxiedService) -> Iterator[FaultProxy]:
    assert service.store is not None
    yield service.store
    service.store.set("ok")


def wait_for_hit(proxy: FaultProxy, mode: Mode) -> None:
    before = proxy.hits[mode]
    proxy.set(mode)
    wait_until(lambda: proxy.hits[mode] > before, deadline_s=120, what=f"{mode} to meet something")


def retried(service: ProxiedService, run_id: str) -> list[str]:
    """What the trainer repeated for the run."""
    lines = service.logged(TRAINER, "call_retried")
    return [line["doing"] for line in lines if line["run_id"] == run_id]


def test_a_burst_shorter_than_the_retries_of_the_client_goes_unnoticed(
    service: ProxiedService, proxy: FaultProxy
) -> None:
    run_id = service.submit()
    service.in_mid_run(run_id)

    wait_for_hit(proxy, "503")
    proxy.set("ok")

    assert len(service.ended_once(run_id)) == 1
    assert retried(service, run_id) == []


def test_training_goes_on_through_a_longer_burst_until_two_checkpoints_wait(
    service: ProxiedService, proxy: FaultProxy
) -> None:
    run_id = service.submit(max_train_steps=60)
    service.in_mid_run(run_id)

    wait_for_hit(proxy, "503")
    wait_until(lambda: "upload" in retried(service, run_id), what="the client to give up")

    def waits(run: dict[str, int]) -> bool:
        return run["step"] == run["checkpoint_step"] + 2 * INTERVAL

    service.tenant.wait_for(run_id, waits, deadline_s=60, what="training to wait")
    proxy.set("ok")

    assert len(service.ended_once(run_id)) == 1
    steps = [event["step"] for event in service.tenant.events(run_id, "run.checkpoint")]
    assert steps == list(range(INTERVAL, 60 + INTERVAL, INTERVAL))


LEASE_AHEAD = "SELECT extract(epoch FROM lease_until) FROM runs WHERE run_id = %(run_id)s"


@pytest.mark.parametrize("mode", ["slow", "hang", "reset", "half_body", "409"])
def test_no_lease_is_lost_to_a_bad_store(
    service: ProxiedService, proxy: FaultProxy, mode: Mode
) -> None:
    run_id = service.submit()
    service.in_mid_run(run_id)

    def lease_ends_s() -> float:
        return float(service.ask(LEASE_AHEAD, run_id=run_id)[0][0])

    wait_for_hit(proxy, mode)
    began_s = lease_ends_s()
    wait_until(lambda: lease_ends_s() > began_s + LEASE_S, what="a whole lease to pass")
    proxy.set("ok")

    assert len(service.ended_once(run_id)) == 1
    assert service.logged(TRAINER, "attempt_over")[-1]["ended"] == "finished"


def test_each_stage_waits_for_the_store(service: ProxiedService, proxy: FaultProxy) -> None:
    tenant = service.tenant
    datasets = service.push_photos("once more", complete=False)
    dataset_id = datasets["photos"]
    proxy.set("503")
    answer = tenant.http.post(f"/v1/datasets/{dataset_id}:complete", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "object_store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    proxy.set("ok")

    def wait_postponed(name: str, event: str) -> None:
        wait_until(lambda: service.logged(name, event), what=event)
        proxy.set("ok")

    with service.frozen("cache_builder"):
        tenant.complete(dataset_id)
        proxy.set("503")
    wait_postponed("cache_builder", "verification_postponed")
    assert service.wait_decided(dataset_id)["status"] == "ready"

    with service.frozen("cache_builder"):
        run_id = service.submit(datasets, max_train_steps=10)
        tenant.wait_for(
            run_id, lambda run: run["stage"] == "caching", deadline_s=60, what="admission"
        )
        proxy.set("503")
    wait_postponed("cache_builder", "build_postponed")

    with service.frozen("results"):
        tenant.wait_over(run_id)
        proxy.set("503")
    wait_postponed("results", "result_not_fetched")

    assert len(service.ended_once(run_id)) == 1


def test_what_was_stored_without_an_answer_is_committed_once(
    service: ProxiedService, proxy: FaultProxy, bucket: Bucket, tmp_path: Path
) -> None:
    run_id = service.submit(service.push_photos("stored"), max_train_steps=5 * INTERVAL)

    def lose(*texts: bytes) -> None:
        lost = proxy.lose_answer(*texts)
        wait_until(lambda: lost.is_lost, deadline_s=120, what=f"the answer to {texts!r}")

    lose(b"/cache/", b"/manifest.json")
    lose(f"step-{INTERVAL:08d}/state.safetensors".encode())
    lose(f"step-{4 * INTERVAL:08d}/manifest.json".encode())
    lose(b"/result/manifest.json")

    assert len(service.ended_once(run_id)) == 1
    steps = [event["step"] for event in service.tenant.events(run_id, "run.checkpoint")]
    assert steps == [number * INTERVAL for number in range(1, 6)]
    with service.connection() as conn:
        folders = [each for each in rows.folders(conn) if each.run_id == run_id]
    assert len(folders) == 6
    _, torn = stored.fetch_all(open_bucket(bucket), folders, tmp_path)
    assert torn == []
