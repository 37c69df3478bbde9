"""Pictures of a run on their way from the training process's folder to the store and its rows."""

import os
from pathlib import Path

import pytest

from services.domain.quotas import Quotas
from services.domain.samples import StoredSample
from services.objects.errors import ObjectStoreDownError, ObjectStoreRefusedError
from services.results.sweep import sweep_runs
from services.store import quotas
from services.trainer import samples as samples_module
from services.trainer.lease import GivenUpError
from tests.support.held_pictures import Held, next_attempt
from tests.support.run_samples import png, sample_event, write_sample
from tests.support.runs import checkpoint_at
from tests.support.sample_rows import BLUE, RED, WRONG


def test_a_picture_is_stored_then_told_and_its_local_file_deleted(held: Held) -> None:
    event = sample_event(2, RED, guidance=4.5, seed=2**40)
    held.make(event)
    held.make(sample_event(0, BLUE, weights="base"), BLUE)
    held.wait()

    first, base = held.rows()
    facts = {name: getattr(first, name) for name in StoredSample.__dataclass_fields__}
    assert facts == {"step": 2, **{k: v for k, v in event.data.items() if k != "took_s"}}
    assert (base.step, base.weights, base.fence) == (0, "base", held.claim.fence)
    assert held.stored(RED) == RED
    assert held.stored(BLUE) == BLUE
    assert held.events()[0] == event  # with its path, by which it is fetched
    assert list(held.output.iterdir()) == []
    assert held.reported == []
    with held.tenant.database.transaction() as conn:
        used = quotas.read(conn, held.tenant.tenant_id, Quotas())["storage_bytes"].used
        conn.execute("DELETE FROM run_samples")
        fewer = quotas.read(conn, held.tenant.tenant_id, Quotas())["storage_bytes"].used
    assert used - fewer == len(RED) + len(BLUE)


def test_what_is_not_the_picture_of_its_event_is_dropped_with_a_warning(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples_module, "_MAX_WARNINGS", 100)
    path = write_sample(held.output, sample_event(1, RED), RED)
    for name, (changes, said) in WRONG.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(RED)
        held.samples.take(sample_event(1, RED, **changes))
        held.wait()
        assert held.warnings().pop().startswith(f"A picture of step 1 is not stored: {said}"), name
    for body in (b"\x89PNG\r\n\x1a\n", b"GIF89a" + RED, b"<svg/>"):
        held.make(sample_event(1, body), body)
        held.wait()
        assert held.warnings().pop().endswith("no PNG picture of 64 by 48 px.")
    assert {each.data["code"] for each in held.reported} == {"sample_not_stored"}
    assert held.rows() == []
    assert held.events() == []
    assert list(held.store.list_keys("tenants/")) == []


def test_a_name_has_letters_of_any_script(held: Held) -> None:
    for name in ("桜の木", "-x", "_", "Größe", "a b"):
        held.make(sample_event(1, RED, name))
    held.wait()
    assert {row.name for row in held.rows()} == {"桜の木", "-x", "_", "Größe", "a b"}
    assert {row.path.split("/")[2].removesuffix("-64x48-42.png") for row in held.rows()} == {
        row.name for row in held.rows()
    }
    assert held.reported == []


def test_links_pipes_and_folders_are_not_followed(held: Held, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(RED)
    event = sample_event(1, RED)
    path = held.output / str(event.data["path"])
    path.parent.mkdir(parents=True)
    path.symlink_to(secret)
    held.samples.take(event)
    held.wait()
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    held.samples.take(event)
    held.wait()
    held.samples.take(event)  # there is none any more
    held.wait()
    elsewhere = tmp_path / "elsewhere"
    write_sample(elsewhere, event, RED)
    (held.output / "samples").symlink_to(elsewhere / "samples")
    held.samples.take(event)
    held.wait()
    assert [each.partition("read: ")[0] for each in held.warnings()] == [
        "A picture of step 1 is not stored: its file cannot be "
    ] * 4
    assert held.rows() == []
    assert secret.read_bytes() == RED
    assert (elsewhere / str(event.data["path"])).read_bytes() == RED


def test_a_store_that_is_away_for_a_while_gets_the_pictures_and_then_the_checkpoint(
    held: Held,
) -> None:
    held.store.error = ObjectStoreDownError("away")
    for step in (1, 2):
        held.make(sample_event(step, RED))
    claim = held.claim
    held.start(
        lambda: held.tenant.ledger.commit_checkpoint(
            claim.run_id, claim.fence, checkpoint_at(claim, 2)
        )
    )
    held.store.error = None
    held.wait()
    types = [each for each in held.tenant.event_types(claim.run_id) if each.endswith("sample")]
    assert types == ["sample", "sample"]
    assert held.tenant.event_types(claim.run_id)[-1] == "run.checkpoint"
    assert held.reported == []


def test_a_store_that_stays_away_costs_pictures_and_not_the_checkpoint(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples_module, "_PATIENCE_S", 0.3)
    held.store.error = ObjectStoreDownError("away")
    paths = [held.make(sample_event(step, RED)) for step in (1, 2)]
    after = held.start(lambda: None)
    after.result(20)
    held.wait()
    assert held.warnings() == [
        f"A picture of step {step} is not stored: the object store has not answered for 0 s."
        for step in (1, 2)
    ]
    assert not any(path.exists() for path in paths)
    held.store.error = None
    held.make(sample_event(3, RED))
    held.wait()
    held.store.error = ObjectStoreRefusedError("no right")
    held.make(sample_event(4, RED))
    held.wait()
    assert [row.step for row in held.rows()] == [3]
    assert held.warnings()[-1] == (
        "A picture of step 4 is not stored: the object store refuses it (object_store_refused)."
    )


def test_so_many_pictures_wait_and_no_more(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "WAITING_SAMPLES", 3)
    held.store.error = ObjectStoreDownError("away")
    for step in range(1, 6):
        held.make(sample_event(step, RED))
    held.store.error = None
    held.wait()
    assert [row.step for row in held.rows()] == [3, 2, 1]
    assert held.warnings() == [
        f"A picture of step {step} is not stored: 3 others wait for the object store."
        for step in (4, 5)
    ]
    assert list(held.output.iterdir()) == []


def test_many_warnings_end_in_one_that_says_so(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_MAX_WARNINGS", 2)
    for step in range(1, 5):
        held.samples.take(sample_event(step, RED, seed="x"))
    assert len(held.reported) == 2
    assert held.warnings()[-1].endswith(
        "Warnings of more pictures that are not stored are left out."
    )


def test_after_the_lease_is_lost_nothing_becomes_visible(held: Held) -> None:
    held.make(sample_event(1, RED))
    held.wait()
    held.tenant.let_lease_run_out(held.claim.run_id)
    assert held.tenant.sweep(max_attempts=3) is not None
    held.make(sample_event(2, RED))
    with pytest.raises(GivenUpError):
        held.wait()
    assert [row.step for row in held.rows()] == [1]
    assert [each.step for each in held.events()] == [1]


def test_a_picture_that_is_made_again_replaces_the_one_of_before_and_its_file_is_swept(
    held: Held,
) -> None:
    older, late = png((0, 99, 0)), png((99, 0, 0))
    held.make(sample_event(1, RED))
    held.make(sample_event(2, older), older)
    held.wait()
    held.store.put_bytes(held.key(late), late)  # stored, and its event was not
    again = next_attempt(held.tenant, held.claim)
    event = sample_event(2, BLUE)
    held.store.put_bytes(held.key(BLUE, fence=again.fence), BLUE)
    held.tenant.ledger.event(again.run_id, again.fence, [event])
    held.tenant.ledger.event(again.run_id, again.fence, [event])  # the reply was lost

    rows = [(row.step, row.fence, row.sha256) for row in held.rows()]
    assert rows == [
        (2, again.fence, event.data["sha256"]),
        (1, held.claim.fence, sample_event(1, RED).data["sha256"]),
    ]
    assert [each.step for each in held.events()] == [1, 2, 2]
    with held.tenant.database.transaction() as conn:
        conn.execute("UPDATE runs SET sweep_after = clock_timestamp() - interval '1 second'")
    assert sweep_runs(held.tenant.database, held.store) == 2
    assert held.stored(RED) == RED
    assert held.stored(older) is None
    assert held.stored(late) is None
    assert held.stored(BLUE, fence=again.fence) == BLUE
