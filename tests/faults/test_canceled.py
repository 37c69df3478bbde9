"""F41: a run is canceled at each stage, also while what it waits for hangs.

A run that nobody holds is canceled at once (tests/integration/test_run_control.py).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from services.objects.open import open_store
from services.results.sweep import sweep_runs
from services.settings.env import Settings
from services.store import publications, run_control
from services.store.database import Database
from tests.integration.trainer_supervisor_child import INTERVAL
from tests.integration.trainer_supervisor_host import (
    TrainerHost,
    claimable_again,
    open_host,
    wait_until,
)
from tests.support.proxy import FaultProxy, Mode
from tests.support.rgw import Bucket

pytestmark = pytest.mark.deep

LEASE_S = 8.0
CANCEL_S = 4.0
Reach: TypeAlias = Callable[[TrainerHost, FaultProxy, Mode], None]
"""Start a trainer and bring its run to a stage; the store may be in this mode from then on."""


@pytest.fixture
def host(
    tmp_path: Path, database_url: str, rgw_bucket: Bucket, rgw_proxy: FaultProxy
) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url, rgw_bucket.at(rgw_proxy.port).url) as host:
        host.env |= {
            "REVERIE_LEASE_S": f"{LEASE_S:g}",
            "REVERIE_RENEW_S": "0.5",
            "REVERIE_CANCEL_S": f"{CANCEL_S:g}",
        }
        yield host


def in_training(host: TrainerHost, _: FaultProxy, __: Mode) -> None:
    host.start("endless")
    host.wait_for_step(INTERVAL + 1)


def with_a_hung_training_process(host: TrainerHost, _: FaultProxy, __: Mode) -> None:
    host.start("hang")
    host.wait_for_step(5)


def in_the_upload_of_a_checkpoint(host: TrainerHost, proxy: FaultProxy, mode: Mode) -> None:
    host.start("endless")
    host.wait_for_step(1)
    proxy.set(mode)
    host.wait_for_step(2 * INTERVAL)  # then it waits until they are stored
    wait_until(lambda: proxy.hits[mode], what=host.logs)


def in_the_upload_of_the_result(host: TrainerHost, proxy: FaultProxy, mode: Mode) -> None:
    host.start("only-result")
    host.wait_for_step(1)
    proxy.set(mode)
    wait_until(lambda: proxy.hits[mode], what=host.logs)


def in_the_download_of_its_checkpoint(host: TrainerHost, proxy: FaultProxy, mode: Mode) -> None:
    assert host.end_of(host.start("die")) == 0
    claimable_again(host)
    proxy.set(mode)
    host.start("endless")
    wait_until(lambda: proxy.hits[mode], what=host.logs)


PLACES: list[tuple[Reach, Mode]] = [
    (in_training, "ok"),
    (with_a_hung_training_process, "ok"),
    (in_the_upload_of_a_checkpoint, "hang"),
    (in_the_upload_of_a_checkpoint, "503"),
    (in_the_upload_of_the_result, "hang"),
    (in_the_upload_of_the_result, "503"),
    (in_the_download_of_its_checkpoint, "hang"),
    (in_the_download_of_its_checkpoint, "503"),
]


@pytest.mark.parametrize("now", [True, False], ids=["now", "graceful"])
@pytest.mark.parametrize("place", PLACES)
def test_a_held_run_is_canceled_within_its_lease(
    host: TrainerHost,
    rgw_proxy: FaultProxy,
    database: Database,
    place: tuple[Reach, Mode],
    now: bool,
) -> None:
    reach, mode = place
    reach(host, rgw_proxy, mode)
    before = host.ask("SELECT * FROM checkpoints ORDER BY step")
    with database.transaction() as conn:
        asked = run_control.cancel(conn, host.tenant_id, host.run_id, now=now)
    assert asked.status == "canceling"
    canceled_s = time.monotonic()

    wait_until(lambda: host.run()["status"] == "canceled", what=host.logs, deadline_s=60)

    allowed_s = LEASE_S if now else LEASE_S + CANCEL_S
    assert time.monotonic() - canceled_s < allowed_s, host.logs()
    assert not host.child_pids()
    assert host.attempts()[-1][0] == "stopped"
    stored = host.ask("SELECT * FROM checkpoints ORDER BY step")
    if reach is in_training and not now:
        assert host.run()["checkpoint_step"] == host.run()["step"]
    elif mode != "ok":
        assert stored == before
    rgw_proxy.set("ok")
    assert host.end_of(host.processes[-1]) == 0, host.logs()
    assert host.ask("SELECT * FROM checkpoints ORDER BY step") == stored
    assert host.run()["result_step"] is None
    with database.transaction() as conn:
        assert publications.list_page(conn, host.tenant_id, 10) == []
    assert_nothing_is_left_but(len(stored), host, database)


def assert_nothing_is_left_but(checkpoints: int, host: TrainerHost, database: Database) -> None:
    """An upload that was under way may have ended; the sweep deletes what no row names."""
    store = open_store(Settings.from_env(host.env))
    host.do("UPDATE runs SET sweep_after = clock_timestamp() - interval '1 s'")
    sweep_runs(database, store)
    keys = store.list_keys(f"tenants/{host.tenant_id}/runs/{host.run_id}/")
    assert sum(key.endswith("/manifest.json") for key in keys) == checkpoints
