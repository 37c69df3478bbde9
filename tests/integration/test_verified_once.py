"""A file is verified once for a tenant, whatever dataset lists it and whoever dies meanwhile."""

import hashlib
from pathlib import Path

from services.cache_builder.verify import RULES, Verifier
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import deletions, verification
from tests.support.datasets import (
    CountingStore,
    based_on,
    completed,
    files_in,
    seen,
    upload,
    verified,
)
from tests.support.pictures import picture as one_coloured
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier


def picture(number: int) -> bytes:
    return one_coloured(number, size=(64 + number, 48))


def pictures(numbers: range) -> dict[str, bytes]:
    return {f"{n:04d}.png": picture(n) for n in numbers}


def expire_leases(tenant: TenantDatabase) -> None:
    with tenant.database.transaction() as conn:
        conn.execute("UPDATE datasets SET lease_until = clock_timestamp()")


def test_what_was_verified_in_another_dataset_is_not_read_again(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = pictures(range(40)) | {"0001.txt": b"a red square", "again.png": picture(3)}
    upload(ada, counting_store, files)
    first = completed(ada, files)
    verified(verifier, ada, first)
    counting_store.read.clear()
    renamed = {f"in/{path}": body for path, body in files.items()} | {"new.png": picture(99)}
    upload(ada, counting_store, renamed)

    second = completed(ada, renamed)
    ready = verified(verifier, ada, second)

    assert (ready.status, ready.verified_files, ready.num_files) == ("ready", 43, 43)
    new = upload_key(ada.tenant_id, hashlib.sha256(picture(99)).hexdigest())
    assert counting_store.read == {new: 1}
    known = {each.path: each for each in files_in(ada, second)}
    for each in files_in(ada, first):
        also = known[f"in/{each.path}"]
        assert (also.width_px, also.height_px, also.text) == (
            *(each.width_px, each.height_px),
            each.text,
        )
    assert (known["in/0001.png"].width_px, known["in/0001.txt"].text) == (65, "a red square")


def test_two_datasets_that_are_verified_in_turn_share_their_files(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = pictures(range(80))
    upload(ada, counting_store, files)
    both = [completed(ada, files), completed(ada, dict(reversed(files.items())))]

    while "verifying" in {seen(ada, each).status for each in both}:
        for each in both:
            verifier.answer_ring(ada.tenant_id, each)

    assert {(each.status, each.verified_files) for each in map(seen, [ada] * 2, both)} == {
        ("ready", 80)
    }
    assert set(counting_store.read.values()) == {1}
    assert len(counting_store.read) == 80


def test_good_files_beside_a_bad_one_count_and_the_bad_one_does_not(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = pictures(range(3)) | {"torn.png": picture(9)[:60]}
    upload(ada, counting_store, files)
    first = verified(verifier, ada, completed(ada, files))
    counting_store.read.clear()

    second = verified(verifier, ada, completed(ada, files))

    assert (first.status, second.status) == ("ready", "ready")
    assert [each["pointer"] for each in second.left_out] == ["torn.png"]
    assert sum(counting_store.read.values()) == 1
    assert [each.width_px for each in files_in(ada, second.dataset_id)] == [64, 65, 66, None]


def test_other_rules_verify_again(
    ada: TenantDatabase, counting_store: CountingStore, inspector: RequestChild, tmp_path: Path
) -> None:
    files = pictures(range(3))
    upload(ada, counting_store, files)
    with open_verifier(ada.database, counting_store, inspector, tmp_path / "old") as old:
        first = completed(ada, files)
        verified(old, ada, first)
    counting_store.read.clear()
    gone = upload_key(ada.tenant_id, hashlib.sha256(files["0001.png"]).hexdigest())
    counting_store.delete(gone)  # found good by the rules before

    with open_verifier(
        ada.database, counting_store, inspector, tmp_path / "new", rules=RULES + 1
    ) as new:
        for dataset_id in (completed(ada, files), based_on(ada, first, {})):
            counting_store.read.clear()
            found = verified(new, ada, dataset_id)
            assert [each["code"] for each in found.errors] == ["not_uploaded"]
            assert [each.width_px for each in files_in(ada, dataset_id)] == [64, None, 66]
            assert set(counting_store.read.values()) <= {1}
    assert seen(ada, first).status == "ready"


def test_nothing_is_known_of_another_tenant_or_a_deleted_dataset(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    bob, files = ada.neighbour(), pictures(range(2))
    upload(ada, counting_store, files)
    first = completed(ada, files)
    verified(verifier, ada, first)
    counting_store.read.clear()

    theirs = verified(verifier, bob, completed(bob, files))
    assert [each["code"] for each in theirs.errors] == ["not_uploaded"] * 2

    with ada.database.transaction() as conn:
        deletions.delete_dataset(conn, ada.tenant_id, first)
    assert verified(verifier, ada, completed(ada, files)).status == "ready"
    assert sum(counting_store.read.values()) == 2


def test_a_content_that_was_lost_after_its_verification_is_verified_again(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = pictures(range(2))
    upload(ada, counting_store, files)
    first = completed(ada, files)
    verified(verifier, ada, first)
    sha256 = hashlib.sha256(files["0001.png"]).hexdigest()
    counting_store.put_bytes(upload_key(ada.tenant_id, sha256), bytes(len(files["0001.png"])))
    with ada.database.transaction() as conn:
        verification.forget(conn, ada.tenant_id, sha256)

    for dataset_id in (completed(ada, files), based_on(ada, first, {})):
        found = verified(verifier, ada, dataset_id)
        assert [each["pointer"] for each in found.errors] == ["0001.png"]


def test_only_what_is_new_in_a_version_is_read(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = pictures(range(100))
    upload(ada, counting_store, files)
    base = completed(ada, files)
    verified(verifier, ada, base)
    counting_store.read.clear()
    new = {"0050.png": picture(150), "0101.png": picture(101), "b.txt": b"new"}
    upload(ada, counting_store, new)

    version = based_on(ada, base, new, "0007.png", "0099.png")
    verifier.answer_ring(ada.tenant_id, version)

    assert seen(ada, version).verified_files == 100  # one batch
    ready = verified(verifier, ada, version)
    assert (ready.status, ready.num_files, ready.based_on) == ("ready", 100, base)
    assert sum(counting_store.read.values()) == len(new)
    wanted = {
        path: body for path, body in (files | new).items() if path[:4] not in {"0007", "0099"}
    }
    assert [each.path for each in files_in(ada, version)] == sorted(wanted)
    assert ready.digest == seen(ada, completed(ada, wanted)).digest


def test_a_version_of_a_dataset_that_is_being_verified_takes_over_what_is_known(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = pictures(range(80))
    upload(ada, counting_store, files)
    base = completed(ada, files)
    verifier.answer_ring(ada.tenant_id, base)  # 32 of them

    version = based_on(ada, base, {}, "0000.png")
    ready = verified(verifier, ada, version)

    assert (ready.status, ready.verified_files) == ("ready", 79)
    assert (len(counting_store.read), set(counting_store.read.values())) == (80, {1})
    assert verified(verifier, ada, base).status == "ready"
    assert set(counting_store.read.values()) == {1}


def test_builders_that_die_at_any_point_leave_the_counts_right(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    upload(ada, counting_store, files := pictures(range(90)))
    known = completed(ada, {path: files[path] for path in list(files)[10:50]})
    verified(verifier, ada, known)
    dataset_id = completed(ada, files)
    scope = (ada.tenant_id, dataset_id)

    while seen(ada, dataset_id).status == "verifying":
        with ada.database.transaction() as conn:
            work = verification.take(conn, *scope)
            assert work is not None
            batch = list(verification.next_files(conn, work, rules=RULES))[:20]
        expire_leases(ada)  # it died with its batch, or it is slow
        verifier.answer_ring(*scope)  # another builder's turn
        with ada.database.transaction() as conn:
            if batch:
                facts = [each.facts for each in batch if each.known_from is None]
                assert verification.record(conn, work, batch, facts, [], rules=RULES) is None
        now = seen(ada, dataset_id)
        with ada.database.transaction() as conn:
            row = conn.execute(
                "SELECT count(*) FROM dataset_files WHERE dataset_id = %s"
                " AND path <= (SELECT verified_to FROM datasets WHERE dataset_id = %s)",
                (dataset_id, dataset_id),
            ).fetchone()
        assert row == (now.verified_files,)

    ready = seen(ada, dataset_id)
    assert (ready.status, ready.verified_files) == ("ready", 90)
    assert all(each.width_px for each in files_in(ada, dataset_id))
    assert set(counting_store.read.values()) == {1}
