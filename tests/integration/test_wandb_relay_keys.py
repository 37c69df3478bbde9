"""What Weights & Biases refuses: the relay fails, and goes on with another key."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.secrets.keys import new_private_key
from services.store import secrets
from services.store.database import Database
from tests.support.relaying import KEY, PRIVATE, RelayingHere, code_of, relaying_to
from tests.support.wandb_server import WandbServer


@pytest.fixture
def relaying(
    wandb_server: WandbServer, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RelayingHere]:
    with relaying_to(wandb_server, database, tmp_path, monkeypatch) as found:
        yield found


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
