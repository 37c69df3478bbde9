"""Events for webhooks: written with what they tell, sent at least once, signed, in bounded time."""

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from services.domain.errors import InvalidRequestError, Problem
from services.domain.webhooks import EVENT_TYPES
from services.results.retention import delete_old_of_webhooks
from services.store import audit, datasets, publications, run_control, webhook_work, webhooks
from services.store.database import Database
from tests.support.ports import free_port
from tests.support.receiver import Received, Receiver, Reply
from tests.support.runs import TenantDatabase, checkpoint_at, failure, result_of
from tests.support.sending import Sending, new_secret
from tests.support.verifying import end_verification


@pytest.fixture
def ada(database: Database) -> Sending:
    return Sending(db=TenantDatabase.new(database))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def answering(*replies: Reply) -> Any:
    """What ``Receiver.answer`` may be: one reply after the other, the last one for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_a_runs_life_is_told_and_each_event_is_signed(ada: Sending, receiver: Receiver) -> None:
    webhook, secret = ada.webhook(receiver.url())
    claim = ada.db.held()
    ada.db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 5))
    ada.db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    canceled = ada.db.claimable()
    with ada.database.transaction() as conn:
        run_control.pause(conn, ada.db.tenant_id, canceled.run_id)
        run_control.cancel(conn, ada.db.tenant_id, canceled.run_id)
        (row,) = publications.list_page(conn, ada.db.tenant_id, 2)
        work = publications.claim(conn, row.publication_id, timedelta(minutes=1))
        assert work is not None
        publications.fail(conn, work.publication_id, work.fence, failure(), timedelta(0))
        work = publications.claim(conn, row.publication_id, timedelta(minutes=1))
        assert work is not None
        publications.succeed(conn, work.publication_id, work.fence, "somewhere", None)
        bad = ada.db.dataset(conn, ready=False)
        datasets.complete(conn, ada.db.tenant_id, bad.dataset_id)
        problem = Problem(pointer="a.png", code="bad", message="It is no picture.")
        end_verification(conn, ada.db.tenant_id, bad.dataset_id, problems=[problem])

    assert set(ada.send()) == {"succeeded"}

    events = [each.verified(secret) for each in receiver.received]
    told = {
        each["type"]: each["data"]
        for each in events
        if each["data"].get("run_id", claim.run_id) == claim.run_id
    }
    assert set(told) == set(EVENT_TYPES) - {
        "run.paused", "run.failed", "run.canceled", "publication.failed", "webhook.disabled",
    }  # fmt: skip
    assert told["run.checkpoint.created"] == {
        "run_id": claim.run_id,
        "batch_id": None,
        "status": "running",
        "stage": "provisioning",
        "step": 5,
        "version": told["run.checkpoint.created"]["version"],
        "checkpoint_step": 5,
    }
    assert told["run.succeeded"]["version"] == ada.db.run(claim.run_id).version
    versions = [
        told[type_]["version"]
        for type_ in ("run.started", "run.checkpoint.created", "run.succeeded")
    ]
    assert versions == sorted(set(versions))
    assert told["publication.succeeded"]["publication_id"] == row.publication_id
    assert told["dataset.rejected"] == {"dataset_id": bad.dataset_id, "status": "rejected"}
    of_canceled = [e["type"] for e in events if e["data"].get("run_id") == canceled.run_id]
    assert sorted(of_canceled)[:2] == ["run.canceled", "run.paused"]
    assert all(len(each.body) < 20_000 for each in receiver.received)
    first = receiver.received[0]
    assert first.headers["Content-Type"] == "application/json"
    assert not {"authorization", "cookie"} & {name.lower() for name in first.headers}
    shown = ada.deliveries(webhook)
    assert {each.status for each in shown} == {"succeeded"}
    assert sorted(each.event_id for each in shown) == sorted(receiver.ids())
    with pytest.raises(WebhookVerificationError):
        first.verified(new_secret()[0])


def test_a_webhook_gets_the_events_that_it_is_for(ada: Sending, receiver: Receiver) -> None:
    ada.webhook(receiver.url("/failed"), ["run.failed", "dataset.rejected"])
    ada.webhook(receiver.url("/queued"), ["run.queued"])
    other = Sending(db=ada.db.neighbour())
    other.webhook(receiver.url("/other"))

    run = ada.db.queued()
    with ada.database.transaction() as conn:
        run_control.cancel(conn, ada.db.tenant_id, run.run_id)
        conn.rollback()  # what did not happen is not told

    ada.send()
    assert [each.path for each in receiver.received] == ["/queued"]
    assert json.loads(receiver.received[0].body)["data"]["run_id"] == run.run_id


def test_while_a_secret_is_replaced_both_sign(ada: Sending, receiver: Receiver) -> None:
    webhook, old = ada.webhook(receiver.url())
    new, seal_it = new_secret()
    with ada.database.transaction() as conn:
        webhooks.rotate_secret(conn, webhook, seal_it, grace=timedelta(hours=24))
    ada.test(webhook)
    ada.send()
    (both,) = receiver.received
    assert both.verified(old) == both.verified(new)

    ada.do("UPDATE webhooks SET old_secret_expires_at = clock_timestamp()")
    ada.test(webhook)
    ada.send()
    with pytest.raises(WebhookVerificationError):
        receiver.received[1].verified(old)
    assert receiver.received[1].verified(new)["type"] == "webhook.test"

    assert delete_old_of_webhooks(ada.database) == 1
    with ada.database.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM secrets").fetchone() == (1,)


def test_what_fails_is_sent_again_with_the_same_id(ada: Sending, receiver: Receiver) -> None:
    webhook, secret = ada.webhook(receiver.url())
    ada.test(webhook)
    busy = Reply(status=503, headers={"Retry-After": "600"}, body=b"come back later")
    receiver.answer = answering(Reply(status=500), busy, Reply(status=204))

    assert ada.send() == ["refused"]
    waiting = ada.delivery(webhook)
    assert (waiting.status, waiting.attempts, waiting.status_code) == ("pending", 1, 500)
    assert waiting.due_at is not None
    assert 4 < (waiting.due_at - waiting.updated_at).total_seconds() < 6
    assert ada.now(webhook).first_failed_at is not None
    assert ada.send() == []  # it is not due

    ada.make_due()
    assert ada.send() == ["refused"]
    waiting = ada.delivery(webhook)
    assert (waiting.attempts, waiting.reply) == (2, "come back later")
    assert waiting.due_at is not None
    assert 599 < (waiting.due_at - waiting.updated_at).total_seconds() < 601

    ada.make_due()
    assert ada.send() == ["succeeded"]
    done = ada.delivery(webhook)
    assert (done.status, done.attempts, done.due_at) == ("succeeded", 3, None)
    assert ada.now(webhook).first_failed_at is None
    assert len(set(receiver.ids())) == 1
    assert len({each.body for each in receiver.received}) == 1
    assert [each.verified(secret)["type"] for each in receiver.received] == ["webhook.test"] * 3


def test_a_receiver_that_is_down_gets_it_when_it_is_up(
    ada: Sending, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")  # not used
    webhook, _ = ada.webhook(f"http://127.0.0.1:{free_port()}/hook")
    ada.test(webhook)
    assert ada.send() == ["not_connected"]
    assert ada.delivery(webhook).error == "not_connected"

    with ada.database.transaction() as conn:
        row = webhooks.get(conn, ada.db.tenant_id, webhook.webhook_id)
        webhooks.change(conn, row, url=receiver.url(), events=None, enabled=True)
    ada.make_due()
    assert ada.send() == ["succeeded"]
    assert (ada.delivery(webhook).error, len(receiver.received)) == (None, 1)


def test_a_redirect_is_not_followed(ada: Sending, receiver: Receiver) -> None:
    webhook, _ = ada.webhook(receiver.url())
    ada.test(webhook)
    with Receiver() as elsewhere:
        receiver.answer = answering(Reply(status=307, headers={"Location": elsewhere.url()}))
        assert ada.send() == ["refused"]
        assert elsewhere.received == []
    assert ada.delivery(webhook).status_code == 307


def test_of_a_huge_answer_only_the_beginning_is_read(ada: Sending, receiver: Receiver) -> None:
    webhook, _ = ada.webhook(receiver.url())
    ada.test(webhook)
    body = "é\0".encode() * (8 << 20)
    receiver.answer = answering(Reply(body=body))
    assert ada.send() == ["succeeded"]
    reply = ada.delivery(webhook).reply
    assert reply is not None
    assert reply.strip("é\ufffd") == ""
    assert 600 < len(reply) < 700


def test_an_answer_that_does_not_come_or_does_not_end_is_given_up(
    ada: Sending,
) -> None:
    with Receiver() as silent, Receiver() as dripping:
        silent.answer = answering(Reply(is_held=True))
        dripping.answer = answering(Reply(body=b"abc", pieces=3))
        first, _ = ada.webhook(silent.url())
        second, _ = ada.webhook(dripping.url())
        ada.test(first)
        ada.test(second)
        assert sorted(ada.send(timeout_s=0.3)) == ["succeeded", "timeout"]
        assert ada.delivery(first).error == "timeout"
        assert ada.delivery(second).reply == "a"  # the status counts


def test_gone_disables_the_webhook_and_the_others_are_told(
    ada: Sending, receiver: Receiver
) -> None:
    leaving, _ = ada.webhook(receiver.url("/leaving"))
    _, secret = ada.webhook(receiver.url("/staying"), ["webhook.disabled"])
    waiting = ada.test(leaving, 2)

    def answer(received: Received) -> Reply:
        return Reply(status=410 if received.path == "/leaving" else 200)

    receiver.answer = answer
    ada.send()
    row = ada.now(leaving)
    assert (row.disabled_reason, row.version) == ("gone", 2)
    assert row.disabled_at is not None
    (news,) = (each for each in receiver.received if each.path == "/staying")
    assert news.verified(secret)["data"] == {
        "webhook_id": leaving.webhook_id, "reason": "gone", "version": 2,
    }  # fmt: skip
    with ada.database.transaction() as conn:
        (event,) = audit.list_page(conn, ada.db.tenant_id, 9, action="webhook.disabled")
        assert (event.target, event.actor["id"]) == (leaving.webhook_id, "results")
    num = len(ada.deliveries(leaving))
    ada.db.queued()
    assert len(ada.deliveries(leaving)) == num  # nothing is kept for it any more

    receiver.answer = answering(Reply())
    with ada.database.transaction() as conn:
        webhooks.change(conn, ada.now(leaving), url=leaving.url, events=None, enabled=True)
    for delivery in ada.deliveries(leaving):
        assert (delivery.status == "failed") == (delivery.status_code == 410)
    assert ada.now(leaving).disabled_reason is None
    assert set(waiting) >= {each.event_id for each in ada.deliveries(leaving)}


def test_three_days_of_failures_disable_the_webhook(ada: Sending, receiver: Receiver) -> None:
    webhook, _ = ada.webhook(receiver.url())
    receiver.answer = answering(Reply(status=500))
    ada.test(webhook)
    for age, is_disabled in (("2 days 23 hours", False), ("3 days 1 second", True)):
        ada.make_due()
        ada.do(f"UPDATE webhooks SET first_failed_at = clock_timestamp() - interval '{age}'")
        assert ada.send() == ["refused"]
        assert (ada.now(webhook).disabled_at is not None) == is_disabled
    assert ada.now(webhook).disabled_reason == "failing"
    ada.make_due()
    assert ada.send() == []


def test_after_the_last_try_the_delivery_has_failed(ada: Sending, receiver: Receiver) -> None:
    webhook, _ = ada.webhook(receiver.url())
    receiver.answer = answering(Reply(status=500))
    ada.test(webhook)
    ada.do("UPDATE webhook_deliveries SET attempts = 9")
    assert ada.send() == ["refused"]
    row = ada.delivery(webhook)
    assert (row.status, row.attempts, row.due_at) == ("failed", 10, None)


def test_a_receiver_that_hangs_delays_nobody_elses_events(ada: Sending) -> None:
    bob = Sending(db=ada.db.neighbour())
    with Receiver() as hanging, Receiver() as quick:
        enough = threading.Event()

        def answer(_: Received) -> Reply:
            if len(quick.received) == 20:
                enough.set()
                hanging.closing.set()
            return Reply()

        hanging.answer = answering(Reply(is_held=True))
        quick.answer = answer
        for _ in range(10):
            ada.test(ada.webhook(hanging.url())[0], 5)
        bob.test(bob.webhook(quick.url())[0], 20)
        outcomes = ada.send(until=enough)
        assert enough.is_set()
        assert len(hanging.received) == webhook_work.AT_ONCE_OF_TENANT
    assert outcomes.count("succeeded") >= 20


def test_a_delivery_is_claimed_by_one_of_many(ada: Sending) -> None:
    for _ in range(5):
        ada.test(ada.webhook("http://127.0.0.1:9999")[0], 2)
    together = threading.Barrier(4)

    def claim(_: int) -> list[str]:
        together.wait()
        with ada.database.transaction() as conn:
            found = webhook_work.claim(conn, timedelta(minutes=1), limit=10, failing=10)
        return [each.delivery_id for each in found]

    with ThreadPoolExecutor(4) as pool:
        claimed = [each for found in pool.map(claim, range(4)) for each in found]
    assert len(claimed) == len(set(claimed))
    assert claimed


def test_a_former_claims_answer_changes_nothing(ada: Sending) -> None:
    webhook, _ = ada.webhook("http://127.0.0.1:9999")
    ada.test(webhook)

    def claim() -> webhook_work.DueDelivery:
        with ada.database.transaction() as conn:
            (work,) = webhook_work.claim(conn, timedelta(minutes=1), limit=1, failing=1)
        return work

    late = claim()
    ada.do("UPDATE webhook_deliveries SET due_at = clock_timestamp(), lease_until = due_at")
    newer = claim()
    good = webhook_work.Answer(status_code=200, error=None, reply="")
    with ada.database.transaction() as conn:
        assert not webhook_work.record(conn, late, good)
        assert ada.delivery(webhook).status == "pending"
        assert webhook_work.record(conn, newer, good)
    assert newer.event_id == late.event_id


def test_a_secret_that_cannot_be_opened_counts_as_no_try(ada: Sending, receiver: Receiver) -> None:
    webhook, _ = ada.webhook(receiver.url())
    ada.test(webhook)
    ada.do("UPDATE secrets SET version = version + 1")
    assert ada.send() == ["secret_unreadable"]
    row = ada.delivery(webhook)
    assert (row.status, row.attempts, row.error) == ("pending", 0, "secret_unreadable")
    assert ada.now(webhook).first_failed_at is None
    assert receiver.received == []


def test_a_tenant_has_ten_webhooks_at_most(ada: Sending) -> None:
    def create(_: int) -> None:
        with contextlib.suppress(InvalidRequestError):
            ada.webhook("https://example.com")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(14)))
    with ada.database.transaction() as conn:
        rows = webhooks.list_page(conn, ada.db.tenant_id, 20)
        assert len(rows) == 10
        webhooks.delete(conn, rows[0])
    ada.webhook("https://example.com")


def test_a_deleted_webhook_leaves_nothing(ada: Sending, receiver: Receiver) -> None:
    webhook, _ = ada.webhook(receiver.url())
    kept, _ = ada.webhook(receiver.url("/kept"), ["run.failed"])
    ada.test(webhook, 3)
    with ada.database.transaction() as conn:
        webhooks.delete(conn, webhook)
    assert ada.send() == []
    ada.test(kept)
    ada.do("UPDATE webhook_deliveries SET created_at = created_at - interval '29 days'")
    assert delete_old_of_webhooks(ada.database) == 4
    assert len(ada.deliveries(kept)) == 1
    ada.do("UPDATE webhook_deliveries SET created_at = created_at - interval '2 days'")
    assert delete_old_of_webhooks(ada.database) == 1
    with ada.database.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM secrets").fetchone() == (1,)
        assert conn.execute("SELECT webhook_id FROM webhooks").fetchall() == [(kept.webhook_id,)]
