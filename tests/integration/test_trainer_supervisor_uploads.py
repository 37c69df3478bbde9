"""Checkpoints while the store is away: what a kill costs, and what the disk holds."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_child import INTERVAL
from tests.integration.trainer_supervisor_host import (
    TrainerHost,
    claimable_again,
    open_host,
    wait_until,
)
from tests.support.proxy import FaultProxy
from tests.support.rgw import Bucket

LIMIT = 2 * INTERVAL
"""The most steps beyond the last commit."""


@pytest.fixture
def host(
    tmp_path: Path, database_url: str, rgw_bucket: Bucket, rgw_proxy: FaultProxy
) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url, rgw_bucket.at(rgw_proxy.port).url) as host:
        host.env |= {"REVERIE_LEASE_S": "60", "REVERIE_RENEW_S": "1", "REVERIE_POLL_S": "1"}
        yield host


def waiting(host: TrainerHost) -> list[str]:
    """The checkpoints on the disk of the running attempt."""
    found = (host.folder / "scratch").glob("wrk_*/attempt-*/output/checkpoints/step-*")
    return sorted(path.name for path in found)


def wait_for_the_limit(host: TrainerHost) -> None:
    """Until training waits, for longer than a stall may last."""
    host.wait_for_step(LIMIT)
    wait_until(lambda: len(waiting(host)) == 2, what="two checkpoints")
    time.sleep(1.5)  # longer than REVERIE_STALL_S: a stall would have ended it
    assert host.run()["step"] == LIMIT, host.logs()
    assert host.run()["checkpoint_step"] == 0
    assert waiting(host) == [f"step-{step:08d}" for step in (INTERVAL, LIMIT)]


def test_a_kill_while_the_store_is_away_costs_at_most_two_intervals(
    host: TrainerHost, rgw_proxy: FaultProxy
) -> None:
    rgw_proxy.set("reset")
    holder = host.start("endless", REVERIE_STALL_S="1")
    wait_for_the_limit(host)

    holder.kill()
    host.end_of(holder)
    rgw_proxy.set("ok")
    claimable_again(host)

    assert host.end_of(host.start("finish")) == 0
    assert host.run()["status"] == "succeeded", host.logs()
    steps = host.ask("SELECT from_step, last_step FROM attempts ORDER BY fence")
    assert steps == [(0, LIMIT), (0, 10)]


def test_training_goes_on_when_the_store_is_back(host: TrainerHost, rgw_proxy: FaultProxy) -> None:
    rgw_proxy.set("503")
    holder = host.start("endless", REVERIE_STALL_S="1")
    wait_for_the_limit(host)

    rgw_proxy.set("ok")

    for step in range(LIMIT, LIMIT + 20):
        host.wait_for_step(step)
        run = host.run()
        assert run["step"] <= run["checkpoint_step"] + LIMIT
        assert len(waiting(host)) <= 2
    holder.send_signal(signal.SIGTERM)
    assert host.end_of(holder) == 0
    assert [attempt[0] for attempt in host.attempts()] == ["stopped"], host.logs()
    assert host.run()["step"] == host.run()["checkpoint_step"]


@pytest.mark.deep
def test_a_slow_store_delays_training_and_loses_nothing(
    host: TrainerHost, rgw_proxy: FaultProxy
) -> None:
    rgw_proxy.set("slow")  # 0.4 s for each block

    assert host.end_of(host.start("finish", REVERIE_STALL_S="5")) == 0

    assert host.run()["status"] == "succeeded", host.logs()
    checkpoints = host.ask("SELECT step FROM checkpoints ORDER BY step")
    assert checkpoints == [(2,), (4,), (6,), (8,), (10,)]
