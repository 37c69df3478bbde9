"""The result of a call in the background, also where it comes just after a wait for it ended."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.trainer.background import Background
from services.trainer.budget import Budget
from services.trainer.lease import Lease, LeaseTimes


class EndsLate(Future[str]):
    """Ends after its waiter has timed out, and before that asks whether it has ended."""

    def done(self) -> bool:
        if not super().done():
            self.set_result("stored")
        return super().done()


@pytest.fixture
def background() -> Iterator[Background]:
    database = Database("postgresql://nobody@localhost/none", max_size=1)  # never connects here
    times = LeaseTimes(lease_s=60, renew_s=15, orphan_s=60, cancel_s=40)
    with contextlib.closing(database):
        lease = Lease(PostgresLedger(database), "run_1", 1, times, Budget(None))
        with Background(lease, "test") as background:
            yield background


def test_a_result_between_two_looks_is_a_result(background: Background) -> None:
    assert background.result_of(EndsLate()) == "stored"


def test_an_error_of_the_call_is_raised(background: Background) -> None:
    def hang() -> None:
        raise TimeoutError("the call's own")

    with pytest.raises(TimeoutError, match="the call's own"):
        background.result_of(background.start(hang))
