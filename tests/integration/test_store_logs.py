"""The log of a run in the database: once, in order, of bounded size, and only by its holder."""

from datetime import timedelta

import pytest

from services.domain.errors import LeaseLostError
from services.domain.ledger import (
    LOG_FIRST_BYTES,
    LOG_NEWEST_BYTES,
    LOG_PIECE_BYTES,
    Outcome,
    Printed,
)
from services.store import run_logs
from services.store.run_logs import LogPiece
from tests.support.runs import TenantDatabase


def printed(start_byte: int, text: str, num_bytes: int | None = None) -> Printed:
    size = len(text.encode()) if num_bytes is None else num_bytes
    return Printed(start_byte=start_byte, num_bytes=size, text=text)


def pieces(tenant_db: TenantDatabase, run_id: str, after: int = 0) -> list[LogPiece]:
    with tenant_db.database.transaction() as conn:
        return run_logs.page(conn, tenant_db.tenant_id, run_id, after, 1000)


def test_a_piece_that_is_sent_again_is_stored_once(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for piece in (
        printed(0, "one\n"),
        printed(0, "one\n"),
        printed(4, "two\n"),
        printed(0, "one\n"),
    ):
        tenant_db.ledger.log(claim.run_id, claim.fence, piece)

    assert [(p.start_byte, p.text) for p in pieces(tenant_db, claim.run_id)] == [
        (0, "one\n"),
        (4, "two\n"),
    ]
    assert [p.text for p in pieces(tenant_db, claim.run_id, after=4)] == ["two\n"]
    assert [p.text for p in pieces(tenant_db, claim.run_id, after=5)] == ["two\n"]
    assert pieces(tenant_db, claim.run_id, after=8) == []


def test_attempts_follow_each_other_and_a_former_holder_writes_nothing(
    tenant_db: TenantDatabase,
) -> None:
    first = tenant_db.held()
    run_id = first.run_id
    tenant_db.ledger.log(run_id, first.fence, printed(0, "first\n"))
    tenant_db.ledger.hand_back(run_id, first.fence, Outcome.STOPPED, None)
    silent = tenant_db.ledger.claim(run_id, worker_id="wrk_2", lease=timedelta(seconds=60))
    assert silent is not None
    tenant_db.ledger.hand_back(run_id, silent.fence, Outcome.STOPPED, None)
    third = tenant_db.ledger.claim(run_id, worker_id="wrk_3", lease=timedelta(seconds=60))
    assert third is not None
    with pytest.raises(LeaseLostError):
        tenant_db.ledger.log(run_id, first.fence, printed(6, "late\n"))
    tenant_db.ledger.log(run_id, third.fence, printed(0, "third\n"))
    tenant_db.ledger.log(run_id, third.fence, printed(6, "and more\n"))
    tenant_db.ledger.hand_back(run_id, third.fence, Outcome.STOPPED, None)
    with pytest.raises(LeaseLostError):
        tenant_db.ledger.log(run_id, third.fence, printed(15, "too late\n"))

    found = pieces(tenant_db, run_id)
    assert [(p.fence, p.start_byte, p.text) for p in found] == [
        (first.fence, 0, "first\n"),
        (third.fence, 6, "third\n"),
        (third.fence, 12, "and more\n"),
    ]
    starts = [each.log_start_byte for each in tenant_db.attempts(run_id)]
    assert starts == [0, None, 6]


def test_of_each_attempt_the_first_and_the_newest_bytes_are_kept(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    run_id = claim.run_id
    num_pieces = (LOG_FIRST_BYTES + 2 * LOG_NEWEST_BYTES) // LOG_PIECE_BYTES
    for number in range(num_pieces):
        start = number * LOG_PIECE_BYTES
        tenant_db.ledger.log(run_id, claim.fence, printed(start, "x", LOG_PIECE_BYTES))
    first_end, end = LOG_FIRST_BYTES, num_pieces * LOG_PIECE_BYTES

    found = pieces(tenant_db, run_id)
    left = [p for p in found if first_end <= p.start_byte < end - LOG_NEWEST_BYTES]
    assert left == []
    assert sum(p.num_bytes for p in found) == LOG_FIRST_BYTES + LOG_NEWEST_BYTES

    tenant_db.ledger.hand_back(run_id, claim.fence, Outcome.STOPPED, None)
    second = tenant_db.ledger.claim(run_id, worker_id="wrk_2", lease=timedelta(seconds=60))
    assert second is not None
    tenant_db.ledger.log(run_id, second.fence, printed(0, "second\n"))
    assert [p.start_byte for p in pieces(tenant_db, run_id, after=end)] == [end]
    assert len(pieces(tenant_db, run_id)) == len(found) + 1, "the log of an attempt is its own"


def test_the_newest_pieces_are_few(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for number in range(10):
        start = number * LOG_PIECE_BYTES
        piece = printed(start, f"{number}\n", LOG_PIECE_BYTES)
        tenant_db.ledger.log(claim.run_id, claim.fence, piece)
    with tenant_db.database.transaction() as conn:
        scope = (conn, tenant_db.tenant_id, claim.run_id)
        assert [p.text for p in run_logs.newest(*scope, 0)] == ["6\n", "7\n", "8\n", "9\n"]
        after = 8 * LOG_PIECE_BYTES
        assert [p.text for p in run_logs.newest(*scope, after)] == ["8\n", "9\n"]
        assert run_logs.newest(conn, "ten_other", claim.run_id, 0) == []
