"""Several runs in one request."""

from services.client.batch_shapes import Batch, BatchRequest, BatchSummary, Comparison
from services.client.call import Call, get, page, part, post
from services.client.shapes import Page


def submit_batch(request: BatchRequest) -> Call[Batch]:
    """Queue several runs; ``refused`` of the batch has the rows with mistakes.

    Refused as a whole where every row has one; nothing is queued then.
    """
    return post("/v1/batches", request)


def list_batches(*, limit: int = 20, after: str | None = None) -> Call[Page[BatchSummary]]:
    """Newest first."""
    return page("/v1/batches", {"limit": limit, "after": after})


def get_batch(batch_id: str) -> Call[Batch]:
    """A batch: how far it is, its rows, and those that were refused."""
    return get(f"/v1/batches/{part(batch_id)}")


def compare_batch(batch_id: str) -> Call[Comparison]:
    """The runs of a batch side by side."""
    return get(f"/v1/batches/{part(batch_id)}/compare")


def cancel_batch(batch_id: str, *, now: bool = False) -> Call[Batch]:
    """Cancel all runs of a batch that are not over; with a checkpoint of each, unless ``now``."""
    return post(f"/v1/batches/{part(batch_id)}:cancel", {"now": now})
