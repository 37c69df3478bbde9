"""The run that a request is about: the API checks that this worker has claimed it."""

from services.api.service import Service
from services.domain.access import RemoteWorker
from services.domain.errors import LeaseLostError
from services.domain.ids import is_id
from services.store import worker_runs


def tenant_of_claim(service: Service, worker: RemoteWorker, run_id: str, fence: int) -> str:
    """The tenant of the run that this worker claimed with this fence; raises LeaseLostError.

    The claim may be over: the ledger checks that in the transaction that writes.
    """
    _check_id(run_id, fence)
    with service.worker_database.transaction() as conn:
        return worker_runs.claimed_by(conn, worker.worker_id, run_id, fence)


def tenant_of_held(service: Service, worker: RemoteWorker, run_id: str, fence: int) -> str:
    """The same for a run that it still holds."""
    _check_id(run_id, fence)
    with service.worker_database.transaction() as conn:
        return worker_runs.held_by(conn, worker.worker_id, run_id, fence)


def _check_id(run_id: str, fence: int) -> None:
    if not is_id(run_id, "run"):
        raise LeaseLostError(run_id=run_id[:200], fence=fence)
