"""The audit log after a restored backup.

What is lost is reported until an operator acknowledges it, and shown for good after that.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from services.domain.audit_chain import Anchor, loss_of
from services.objects.folder_store import FolderStore
from services.results.retention import anchor_audit_logs, trim_audit_logs
from services.store import audit
from services.store.database import Database
from tests.support.audit_logs import age, first_misfit, folder_store, record, verify
from tests.support.backups import back_up, restore
from tests.support.runs import TenantDatabase

AT_ONCE = timedelta(0)
Cli = Callable[..., str]


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return folder_store(tmp_path)


@pytest.fixture
def ada(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


@pytest.fixture
def cli(
    ada: TenantDatabase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:
    """Run `reverie admin audit …`; returns what it prints."""
    monkeypatch.setenv("REVERIE_DATABASE_URL", ada.database._url)
    monkeypatch.setenv("REVERIE_OBJECTS_URL", f"file://{tmp_path}/objects")
    monkeypatch.setenv("REVERIE_SIGNING_KEY", "5f" * 16)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        app(["admin", "audit", *arguments], obj=Invocation(env={}), standalone_mode=False)
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def anchor(ada: TenantDatabase, objects: FolderStore) -> None:
    anchor_audit_logs(ada.database, objects, every=AT_ONCE)


def lose(ada: TenantDatabase, objects: FolderStore) -> None:
    """What a restored backup does: events 3 to 5 are gone, of which 4 and 5 were anchored."""
    record(ada, "a", "b")
    anchor(ada, objects)
    record(ada, "c", "d")
    anchor(ada, objects)
    record(ada, "e")
    anchor(ada, objects)
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq > 2")
    change(ada, "UPDATE tenants SET audit_anchored_seq = 2 WHERE tenant_id = %(tenant_id)s")


def change(ada: TenantDatabase, statement: str, **facts: Any) -> None:
    with ada.database.transaction() as conn:
        assert conn.execute(statement.encode(), {"tenant_id": ada.tenant_id, **facts}).rowcount > 0


def test_lost_events_are_reported_until_they_are_acknowledged_and_shown_for_good(
    ada: TenantDatabase, objects: FolderStore, cli: Cli, tmp_path: Path
) -> None:
    record(ada, "a", "b", "c")
    anchor(ada, objects)
    backup = tmp_path / "backup.dump"
    back_up(ada.database._url, backup)
    record(ada, "d", "e")
    anchor(ada, objects)
    restore(ada.database._url, backup)

    assert first_misfit(ada, objects) == (4, "truncated")
    record(ada, "f", "g", "h")
    assert first_misfit(ada, objects) == (5, "rewritten")
    with pytest.raises(CommandError, match="event 5, or one before it, was replaced"):
        cli("verify", "ada")
    assert "4 to 5" in cli("acknowledge-restore")
    assert ada.tenant_id not in cli("acknowledge-restore", "ada")  # nothing more is lost

    record(ada, "i")
    found = verify(ada, objects)
    assert (found.is_whole, found.last_seq) == (True, 8)
    (loss,) = found.losses
    assert (loss.first_seq, loss.last_seq, loss.acknowledged_by_seq) == (4, 5, 7)
    assert "lost with a restored backup: events 4 to 5" in cli("verify", "ada")
    with ada.database.transaction() as conn:
        (event,) = audit.list_page(conn, ada.tenant_id, 10, action="audit.restored")
    assert event.actor == {"kind": "operator", "id": "database"}


def test_what_is_tampered_with_later_is_found_as_ever(
    ada: TenantDatabase, objects: FolderStore, cli: Cli
) -> None:
    lose(ada, objects)
    cli("acknowledge-restore")
    record(ada, "f", "g", "h")
    anchor(ada, objects)
    assert verify(ada, objects).is_whole

    record(ada, "i")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq > 5")
    assert first_misfit(ada, objects) == (6, "truncated")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq = 3")
    assert first_misfit(ada, objects) == (3, "removed")  # the acknowledgement itself


def test_an_acknowledgement_that_is_edited_is_found(
    ada: TenantDatabase, objects: FolderStore, cli: Cli
) -> None:
    lose(ada, objects)
    cli("acknowledge-restore")
    change(
        ada,
        "UPDATE audit_events SET data = jsonb_set(data, '{last_seq}', '4')"
        " WHERE tenant_id = %(tenant_id)s AND action = 'audit.restored'",
    )

    assert first_misfit(ada, objects) == (3, "edited")


def test_a_log_in_which_something_else_is_wrong_is_not_acknowledged(
    ada: TenantDatabase, objects: FolderStore, cli: Cli
) -> None:
    bob = ada.neighbour()
    lose(bob, objects)
    lose(ada, objects)
    change(ada, "UPDATE audit_events SET action = 'x' WHERE tenant_id = %(tenant_id)s AND seq = 1")

    with pytest.raises(CommandError, match=f"{ada.tenant_id}: The event 1 was changed"):
        cli("acknowledge-restore")
    assert first_misfit(ada, objects) == (1, "edited")
    assert verify(ada, objects).losses == []
    assert verify(bob, objects).is_whole


def test_a_second_restore_loses_the_acknowledgement_which_is_made_again(
    ada: TenantDatabase, objects: FolderStore, cli: Cli
) -> None:
    lose(ada, objects)
    cli("acknowledge-restore")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq = 3")
    record(ada, "x", "y", "z")
    assert first_misfit(ada, objects) == (4, "rewritten")

    cli("acknowledge-restore")
    found = verify(ada, objects)
    assert (found.is_whole, [loss.acknowledged_by_seq for loss in found.losses]) == (True, [6])


def test_a_log_that_was_made_anew_and_anchored_again_is_found(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b")
    anchor(ada, objects)
    age(ada, range(1, 2), days=1)
    change(ada, "UPDATE tenants SET audit_anchored_seq = 1 WHERE tenant_id = %(tenant_id)s")
    anchor(ada, objects)

    assert first_misfit(ada, objects) == (2, "rewritten")


def test_trimming_leaves_an_acknowledgement_while_a_lost_number_is_in_the_log(
    ada: TenantDatabase, objects: FolderStore, cli: Cli
) -> None:
    lose(ada, objects)
    cli("acknowledge-restore")
    record(ada, "f")
    anchor(ada, objects)  # of event 4, which was lost under that number
    assert trim_audit_logs(ada.database, objects, AT_ONCE) == 0

    record(ada, "g", "h", "i")
    anchor(ada, objects)
    assert trim_audit_logs(ada.database, objects, AT_ONCE) == 6
    found = verify(ada, objects)
    assert (found.is_whole, found.first_seq, found.losses) == (True, 7, [])


def test_what_an_anchor_still_shows_is_not_lost() -> None:
    anchors = [Anchor(seq=seq, hash=f"{seq:064x}") for seq in (2, 5, 7, 9)]
    hashes = {5: anchors[1].hash, 7: "0" * 64}

    loss = loss_of(anchors, hashes, first_seq=5)
    assert loss is not None
    assert (loss.first_seq, loss.last_seq) == (6, 9)
    assert [each.seq for each in loss.anchors] == [7, 9]
    assert loss_of(anchors[:2], hashes, first_seq=5) is None
