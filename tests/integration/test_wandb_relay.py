"""Metrics relayed to Weights & Biases: what is there is what is stored, whatever happens."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.domain.ids import new_id
from services.domain.ledger import ChildEvent, Claim, Outcome
from services.results.relay.relayer import Relayer
from services.secrets.keys import new_private_key, parse_public, public_text
from services.secrets.sealing import seal
from services.store import metric_relays, relay_work, run_control, secrets
from services.store.database import Database
from services.store.metric_relays import MetricRelay
from services.workers.scratch import Scratch
from tests.support.fleet import Fleet, children_of, command_of
from tests.support.runs import LEASE, TenantDatabase, checkpoint_at, failure, result_of
from tests.support.service import database_of
from tests.support.waiting import wait_until
from tests.support.wandb_server import WandbServer
from tests.unit.config_examples import import_small

PRIVATE = new_private_key()
PUBLIC = parse_public(public_text(PRIVATE))
KEY = "c0ffee" * 7
PLAN = import_small(
    {"report_to": "wandb", "tracker_project_name": "moons", "tracker_run_name": "first try"}
).plan.model_dump(mode="json")


@dataclass(frozen=True, kw_only=True)
class Relaying:
    """A tenant whose runs are relayed."""

    tenant_db: TenantDatabase

    @property
    def database(self) -> Database:
        return self.tenant_db.database

    def store_key(self, key: str = KEY, *, name: str = "my-wandb", kind: str = "wandb") -> None:
        """As ``PUT /v1/secrets/{name}`` does."""
        tenant_id = self.tenant_db.tenant_id
        with self.database.transaction() as conn:
            secrets.put(conn, tenant_id, name, kind, lambda p: seal(SecretStr(key), p, PUBLIC))
            metric_relays.go_on(conn, tenant_id, name)

    def claim(self) -> Claim:
        return self.tenant_db.held(plan=PLAN, wandb_secret="my-wandb")

    def report(self, claim: Claim, *steps: int, value: float = 0.0, evaluated: int = -1) -> None:
        """Events of these steps; with the one of ``evaluated`` comes the validation loss."""
        events = []
        for step in steps:
            data = {"loss": value + 1 / (step + 3), "learning_rate": 1e-4, "grad_max": None}
            events.append(ChildEvent(type="step", step=step, data={**data, "epoch": 0}))
            if step == evaluated:
                loss = {"name": "probe", "mean": value + 0.25, "held_out_mean": None}
                events.append(ChildEvent(type="eval", step=step, data=loss))
        self.tenant_db.ledger.event(claim.run_id, claim.fence, events)

    def finish(self, claim: Claim, step: int) -> None:
        ledger = self.tenant_db.ledger
        ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=step)

    def relay(self, run_id: str) -> MetricRelay:
        with self.database.transaction() as conn:
            found = metric_relays.find(conn, self.tenant_db.tenant_id, run_id)
        assert found is not None
        return found

    def stored(self, run_id: str) -> list[tuple[int, dict[str, float]]]:
        """What the run's events say of each step, the first report of a number counting."""
        names = {"loss": "train/loss", "learning_rate": "train/learning_rate"}
        rows: dict[int, dict[str, float]] = {}
        for event in self.tenant_db.events(run_id):
            row = rows.setdefault(event.step, {})
            if event.type == "step":
                for name, shown in names.items():
                    row.setdefault(shown, event.data[name])
            elif event.type == "eval":
                row.setdefault("eval/probe/mean", event.data["mean"])
        return [(step, row) for step, row in sorted(rows.items()) if row]


@dataclass(frozen=True, kw_only=True)
class RelayingHere(Relaying):
    """With a relayer in this process."""

    scratch: Scratch
    relayer: Relayer

    def turn(self) -> None:
        """Everything that waits for a time is due now."""
        with self.database.transaction() as conn:
            conn.execute(
                "UPDATE metric_relays SET due_at = clock_timestamp() WHERE due_at IS NOT NULL"
            )
        assert self.relayer.work() == 1


def code_of(relay: MetricRelay) -> str | None:
    return None if relay.error is None else str(relay.error["code"])


@pytest.fixture
def relaying(
    database: Database, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RelayingHere]:
    """The server accepts ``KEY``, which is stored."""
    monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", PRIVATE)
    wandb_server.keys.add(KEY)
    with Scratch(tmp_path / "scratch", new_id("wrk")) as scratch:
        relayer = Relayer(
            database, scratch, wandb_server.url, lease=5 * LEASE, stopping=threading.Event()
        )
        tenant_db = TenantDatabase.new(database)
        relaying = RelayingHere(tenant_db=tenant_db, scratch=scratch, relayer=relayer)
        relaying.store_key()
        yield relaying
        assert [each.name for each in scratch.folder.iterdir()] == ["lock"]


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


def refuse(relaying: RelayingHere, wandb_server: WandbServer) -> str:
    """Try with a key that the server does not accept; returns the run's id."""
    claim = relaying.claim()
    relaying.report(claim, *range(5))
    wandb_server.keys.clear()
    relaying.turn()

    relay = relaying.relay(claim.run_id)
    assert (relay.status, relay.step, code_of(relay)) == ("failed", None, "wandb_key_refused")
    assert relay.error is not None
    assert "the secret my-wandb" in relay.error["message"]
    assert relaying.tenant_db.run(claim.run_id).status == "running"
    assert relaying.relayer.work() == 0
    return claim.run_id


def test_a_key_that_is_refused_fails_the_relay(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    run_id = refuse(relaying, wandb_server)
    relaying.store_key()
    assert relaying.relay(run_id).status == "running"


@pytest.mark.deep
def test_a_relay_that_failed_goes_on_with_another_key(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    run_id = refuse(relaying, wandb_server)
    wandb_server.keys.add(KEY)
    relaying.store_key()
    assert relaying.relayer.work() == 1
    assert wandb_server.runs[run_id].history == relaying.stored(run_id)[:-1]
    relay = relaying.relay(run_id)
    assert (relay.status, relay.step, relay.error) == ("running", 3, None)


@pytest.mark.deep
def test_a_key_that_was_replaced_meanwhile_is_tried_at_once(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    claim = relaying.claim()
    relaying.report(claim, *range(5))
    wandb_server.keys = {"decade" * 7}
    wandb_server.held_on = "RunResumeStatus"
    turns: list[int] = []
    working = threading.Thread(target=lambda: turns.append(relaying.relayer.work()))
    working.start()
    assert wandb_server.has_held.wait(60)
    relaying.store_key("decade" * 7)
    wandb_server.release()
    working.join(60)

    relay = relaying.relay(claim.run_id)
    assert (relay.status, relay.step, relay.error) == ("running", 3, None)
    assert turns == [2]


@pytest.mark.deep
@pytest.mark.parametrize("what", ["deleted", "of another kind", "unreadable"])
def test_a_secret_that_cannot_be_used_fails_the_relay(
    relaying: RelayingHere,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    claim = relaying.claim()
    relaying.report(claim, *range(5))
    if what == "deleted":
        with relaying.database.transaction() as conn:
            secrets.delete(conn, relaying.tenant_db.tenant_id, "my-wandb")
    elif what == "of another kind":
        relaying.store_key(kind="hub")
    else:
        monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", new_private_key())
    relaying.turn()

    relay = relaying.relay(claim.run_id)
    if what == "unreadable":
        assert (relay.status, code_of(relay)) == ("running", "secret_unreadable")
        monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", PRIVATE)
    else:
        assert (relay.status, code_of(relay)) == ("failed", "secret_missing")
    assert wandb_server.requests == []
    relaying.store_key()
    relaying.turn()
    assert wandb_server.runs[claim.run_id].history == relaying.stored(claim.run_id)[:-1]


@pytest.mark.deep
def test_a_project_that_is_forbidden_fails_the_relay(
    relaying: RelayingHere, wandb_server: WandbServer
) -> None:
    claim = relaying.claim()
    relaying.report(claim, *range(5))
    wandb_server.forbidden_projects.add("moons")
    relaying.turn()

    relay = relaying.relay(claim.run_id)
    assert (relay.status, code_of(relay)) == ("failed", "wandb_forbidden")


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
