"""Metrics relayed to Weights & Biases: what is there is what is stored, whatever happens."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.domain.ledger import Outcome
from services.results.relay.relayer import Relayer
from services.store import relay_work, run_control
from services.store.database import Database
from tests.support.fleet import Fleet, children_of, command_of
from tests.support.relaying import KEY, PLAN, PRIVATE, Relaying, RelayingHere, code_of, relaying_to
from tests.support.runs import LEASE, TenantDatabase, checkpoint_at, failure
from tests.support.service import database_of
from tests.support.waiting import wait_until
from tests.support.wandb_server import WandbServer


@pytest.fixture
def relaying(
    wandb_server: WandbServer, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RelayingHere]:
    with relaying_to(wandb_server, database, tmp_path, monkeypatch) as found:
        yield found


def test_what_is_there_is_what_is_stored(
    relaying: RelayingHere, wandb_server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    claim = relaying.claim()
    run_id = claim.run_id
    relaying.report(claim, *range(31), evaluated=0)
    relaying.turn()

    there = wandb_server.runs[run_id]
    assert there.history == relaying.stored(run_id)[:-1]  # more may be reported of the last step
    assert (there.project, there.name, there.exit_code) == ("moons", "first try", None)
    relay = relaying.relay(run_id)
    assert (relay.status, relay.step, relay.error) == ("running", 29, None)
    assert relay.url == f"{wandb_server.url}/tester/moons/runs/{run_id}"

    relaying.report(claim, *range(31, 40), evaluated=39)
    relaying.finish(claim, 39)
    relaying.turn()

    assert there.history == relaying.stored(run_id)
    assert len(there.history) == 40
    assert (there.exit_code, there.changed) == (0, [])
    assert there.summary["reverie/status"] == "succeeded"
    assert there.summary["train/loss"] == pytest.approx(1 / 42)
    assert there.config["max_train_steps"]["value"] == PLAN["identity"]["max_train_steps"]
    assert there.config["plan_digest"]["value"] == "d" * 64
    relay = relaying.relay(run_id)
    assert (relay.status, relay.step, relay.error) == ("succeeded", 39, None)
    assert relaying.relayer.work() == 0
    said = capfd.readouterr()
    assert said.out.count("metrics_relayed") + said.err.count("metrics_relayed") == 2
    assert KEY not in said.out + said.err
    assert not any(KEY.encode() in body for body in wandb_server.bodies)


def test_of_a_run_that_never_started_nothing_is_sent_before_its_end(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    run = relaying.tenant_db.claimable(plan=PLAN, wandb_secret="my-wandb")
    assert relaying.relayer.work() == 0
    with relaying.database.transaction() as conn:
        run_control.cancel(conn, run.tenant_id, run.run_id)
        work = relay_work.claim(conn, LEASE, of_one_tenant=1)
        assert work is not None
        assert (work.run_id, work.is_over, work.tries) == (run.run_id, True, 1)
    assert wandb_server.requests == []


def test_an_unexpected_error_counts_as_a_try_and_does_not_stop_others(
    relaying: RelayingHere,
) -> None:
    poisoned = relaying.tenant_db.held(wandb_secret="my-wandb")  # its plan lacks the project
    relaying.report(poisoned, *range(5))
    quiet = relaying.claim()
    assert relaying.relayer.work() == 2

    relay = relaying.relay(poisoned.run_id)
    assert (relay.status, code_of(relay)) == ("running", "relay_failed")
    assert code_of(relaying.relay(quiet.run_id)) is None


@pytest.mark.deep
@pytest.mark.parametrize("status", [None, 429, 503])
@pytest.mark.parametrize("failing_on", [None, "UpsertBucket", "file_stream", "RunHistoryKeys"])
def test_an_outage_loses_nothing_and_never_touches_the_run(
    relaying: RelayingHere, wandb_server: WandbServer, status: int | None, failing_on: str | None
) -> None:
    if status is None and failing_on is not None:
        pytest.skip("a server that is off answers nothing")
    claim = relaying.claim()
    relaying.report(claim, *range(5))
    if status is None:
        off = "http://127.0.0.1:9"
        relayer = Relayer(
            relaying.database, relaying.scratch, off, lease=5 * LEASE, stopping=threading.Event()
        )
        replace(relaying, relayer=relayer).turn()
    else:
        wandb_server.failing_with, wandb_server.failing_on = status, failing_on
        relaying.turn()
    relay = relaying.relay(claim.run_id)
    assert (relay.status, relay.step, code_of(relay)) == ("running", None, "wandb_down")

    relaying.report(claim, *range(5, 9))
    relaying.finish(claim, 8)
    assert relaying.tenant_db.run(claim.run_id).status == "succeeded"
    wandb_server.failing_with = None
    relaying.turn()

    there = wandb_server.runs[claim.run_id]
    assert there.history == relaying.stored(claim.run_id)
    assert (there.exit_code, there.changed) == (0, [])
    assert relaying.relay(claim.run_id).status == "succeeded"


@pytest.mark.deep
@pytest.mark.parametrize("held_on", ["UpsertBucket", "file_stream", "RunHistoryKeys"])
def test_a_kill_anywhere_leaves_no_gap_and_no_difference(
    relaying: RelayingHere, wandb_server: WandbServer, held_on: str
) -> None:
    claim = relaying.claim()
    relaying.report(claim, *range(20), evaluated=10)
    wandb_server.held_on = held_on
    turn = threading.Thread(target=relaying.turn)
    turn.start()
    assert wandb_server.has_held.wait(60)
    (sending,) = [pid for pid in children_of(os.getpid()) if "spawn_main" in command_of(pid)]
    os.kill(sending, signal.SIGKILL)
    turn.join(30)
    wandb_server.release()

    relay = relaying.relay(claim.run_id)
    assert (relay.status, relay.step, code_of(relay)) == ("running", None, "relay_died")
    wait_until(lambda: not core_pids(relaying.scratch.folder), what="wandb-core to end, too")
    relaying.report(claim, *range(20, 25))
    relaying.finish(claim, 24)
    relaying.turn()

    there = wandb_server.runs[claim.run_id]
    assert there.history == relaying.stored(claim.run_id)
    assert (there.exit_code, there.changed) == (0, [])


def core_pids(folder: Path) -> list[int]:
    """The SDK's own programs that run, of relays whose files are in this folder."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if "wandb-core" in command_of(pid) and is_below(pid, folder)]


def is_below(pid: int, folder: Path) -> bool:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink()).startswith(f"{folder}/")
    except OSError:
        return False  # it has ended


@pytest.mark.deep
def test_steps_that_are_taken_again_are_there_once(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    first = relaying.claim()
    ledger = relaying.tenant_db.ledger
    relaying.report(first, *range(1, 11))
    ledger.commit_checkpoint(first.run_id, first.fence, checkpoint_at(first, 10))
    relaying.report(first, *range(11, 16))
    relaying.turn()
    ledger.hand_back(first.run_id, first.fence, Outcome.STOPPED, None)
    worker = relaying.tenant_db.worker()
    second = ledger.claim(first.run_id, worker_id=worker, lease=timedelta(seconds=60))
    assert second is not None
    relaying.report(second, *range(11, 21), value=0.5, evaluated=20)
    relaying.finish(second, 20)
    relaying.turn()

    there = wandb_server.runs[first.run_id]
    assert [step for step, _ in there.history] == list(range(1, 21))
    losses = dict(there.history)
    assert losses[14]["train/loss"] == 1 / 17
    assert losses[15]["train/loss"] == 0.5 + 1 / 18  # nobody had said yet that it was complete
    assert losses[20]["eval/probe/mean"] == 0.75
    assert there.changed == []


@pytest.mark.deep
@pytest.mark.parametrize("end", ["failed", "canceled"])
def test_the_end_of_a_run_is_told(
    relaying: RelayingHere, wandb_server: WandbServer, end: str
) -> None:
    claim = relaying.claim()
    relaying.report(claim, 1, 2)
    ledger = relaying.tenant_db.ledger
    if end == "failed":
        ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure(retryable=False))
    else:
        with relaying.database.transaction() as conn:
            run_control.cancel(conn, claim.tenant_id, claim.run_id)
        ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    relaying.turn()

    there = wandb_server.runs[claim.run_id]
    assert (there.summary["reverie/status"], there.exit_code) == (
        end,
        {"failed": 1, "canceled": 130}[end],
    )
    assert there.summary.get("reverie/status_reason") == ("child_died" if end == "failed" else None)


@pytest.mark.deep
def test_a_tenant_whose_relays_hang_does_not_stop_others(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    for _ in range(4):
        relaying.report(relaying.claim(), 1, 2)
    other = replace(relaying, tenant_db=relaying.tenant_db.neighbour())
    wandb_server.held_on = "moons"
    with relaying.relayer:
        assert wandb_server.has_held.wait(60)
        other.store_key()
        plan = {**PLAN, "operation": {**PLAN["operation"], "tracker_project_name": "suns"}}
        claim = other.tenant_db.held(plan=plan, wandb_secret="my-wandb")
        other.report(claim, 1, 2)
        wait_until(lambda: other.relay(claim.run_id).step == 1, what="the other tenant's relay")
        began = time.monotonic()
    assert time.monotonic() - began < 10
    wait_until(lambda: not core_pids(relaying.scratch.folder), what="wandb-core to end")
    wandb_server.release()
    with relaying.database.transaction() as conn:
        held = conn.execute("SELECT count(*) FROM metric_relays WHERE lease_until > now()")
        assert held.fetchone() == (0,)  # whoever starts next goes on at once


@pytest.mark.deep
def test_a_results_process_that_is_killed_leaves_no_gap_and_no_difference(
    fleet_of: Callable[..., Fleet], wandb_server: WandbServer
) -> None:
    fleet = fleet_of(REVERIE_WANDB_URL=wandb_server.url)
    wandb_server.keys.add(KEY)
    wandb_server.held_on = "RunHistoryKeys"
    with database_of(fleet) as database:
        tenant_db = TenantDatabase.new(database)
        relaying = Relaying(tenant_db=tenant_db)
        relaying.store_key()
        claim = relaying.claim()
        relaying.report(claim, *range(20), evaluated=10)
        fleet.start("results", REVERIE_SECRETS_PRIVATE_KEYS=PRIVATE)
        assert wandb_server.has_held.wait(60), fleet.tail("results")
        fleet.signal("results", signal.SIGKILL)
        fleet.wait("results")
        wait_until(lambda: not core_pids(fleet.home / "scratch"), what="wandb-core to end, too")
        wandb_server.release()
        relaying.report(claim, *range(20, 25))
        relaying.finish(claim, 24)
        fleet.start("results", REVERIE_SECRETS_PRIVATE_KEYS=PRIVATE)
        wait_until(
            lambda: relaying.relay(claim.run_id).status == "succeeded",
            deadline_s=120,
            what="the relay to end",
        )

        there = wandb_server.runs[claim.run_id]
        assert there.history == relaying.stored(claim.run_id)
        assert (there.exit_code, there.changed) == (0, [])
