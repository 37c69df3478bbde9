"""F35: the clock of a worker is wrong, or jumps. Leases go by the database's clock alone."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_host import TrainerHost, claimable_again, open_host
from tests.support.odd_clock import OddClock
from tests.support.rgw import Bucket

pytestmark = pytest.mark.deep

HOURS_AHEAD_S, DAY_BEHIND_S = 7200, -86400
LEASE_S = 2.0


@pytest.fixture
def clock(tmp_path: Path) -> OddClock:
    try:
        return OddClock(tmp_path)
    except RuntimeError as error:
        pytest.skip(str(error))


def launcher(clock: OddClock) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in clock.env.items())]


@pytest.mark.parametrize("seconds", [HOURS_AHEAD_S, DAY_BEHIND_S])
def test_the_lease_is_renewed_as_always(
    tmp_path: Path, database_url: str, clock: OddClock, seconds: int
) -> None:
    with open_host(tmp_path, database_url) as host:
        clock.set(seconds)
        holder = host.start("endless", launcher=launcher(clock))
        for step in range(1, 60, 2):
            host.wait_for_step(step)
            if step == 31:
                clock.set(-seconds)  # in the middle of the run
            ((left_s,),) = host.ask(
                "SELECT extract(epoch FROM lease_until - clock_timestamp())::float FROM runs"
            )
            assert 0 < left_s <= LEASE_S

        holder.send_signal(signal.SIGTERM)

        assert host.end_of(holder) == 0, host.logs()
        ((outcome, *_),) = host.attempts()
        assert outcome == "stopped", host.logs()
        assert host.run()["checkpoint_step"] == host.run()["step"] >= 59


@pytest.fixture
def host_with_s3(tmp_path: Path, database_url: str, rgw_bucket: Bucket) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url, rgw_bucket.url) as host:
        yield host


@pytest.mark.parametrize("seconds", [HOURS_AHEAD_S, DAY_BEHIND_S])
def test_a_store_that_refuses_the_time_drains_the_worker(
    host_with_s3: TrainerHost, clock: OddClock, seconds: int
) -> None:
    host = host_with_s3
    clock.set(seconds)

    assert host.end_of(host.start("finish", launcher=launcher(clock), rings=2)) == 0

    ((outcome, _, code, message),) = host.attempts()
    assert (outcome, code) == ("failed", "clock_wrong"), host.logs()
    assert message == "The clock of the worker is wrong."
    assert host.logs().count("ring_declined") == 1  # it takes no other run at once
    assert host.run()["status"] == "queued"
    claimable_again(host)
    assert host.end_of(host.start("finish")) == 0
    assert host.run()["status"] == "succeeded", host.logs()
