"""Rented machines for tests: what a process of ``reverie worker --join`` has, without training."""

from datetime import timedelta

from services.domain.ledger import Claim, Worker
from services.remote.ledger import HttpLedger
from services.remote.objects import SignedObjects
from services.remote.session import Trust, WorkerSession
from services.store import worker_keys
from services.store.database import Database
from services.store.worker_keys import WorkerKey
from tests.support.api_keys import KEY_PEPPER
from tests.support.runs import LEASE

_OFFER = """
UPDATE runs SET offered_to = %s, offered_until = clock_timestamp() + interval '1 hour'
WHERE run_id = %s
"""


def new_worker_key(database: Database, name: str) -> tuple[WorkerKey, str]:
    """The row of a new worker's key of the GPU class ``cpu``, and the key itself."""
    with database.transaction() as conn:
        key, secret = worker_keys.create(conn, KEY_PEPPER, name=name, gpu_class="cpu")
    assert secret is not None
    return key, secret


class Box:
    """A machine with a worker's key of its own; it joins the API at ``url``."""

    def __init__(self, url: str, database: Database, *, name: str = "box") -> None:
        self.key, self.secret = new_worker_key(database, name)
        self.url = url
        self._database = database
        self.session = WorkerSession(url, self.secret, Trust())
        self.ledger = HttpLedger(self.session)
        self.objects = SignedObjects(self.session)
        self.worker = Worker(
            worker_id=self.key.worker_id, kind="trainer", gpu_class="cpu", version="1", node=name
        )
        self.ledger.register(self.worker, draining=False, run_id=None)

    def is_offered(self, run_id: str) -> None:
        """Offer it this run, in place of the dispatcher."""
        with self._database.transaction() as conn:
            conn.execute(_OFFER, (self.key.worker_id, run_id))

    def claims(self, run_id: str, lease: timedelta = LEASE) -> Claim | None:
        """Claim the run, once it is offered."""
        return self.ledger.claim(run_id, worker_id=self.key.worker_id, lease=lease)
