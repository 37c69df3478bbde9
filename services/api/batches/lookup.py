"""Finding the batch that an address names."""

from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import batches
from services.store.batches import Batch
from services.store.database import Connection


def find_batch(conn: Connection, tenant_id: str, batch_id: str) -> Batch:
    """Raises NotFoundError, also where the text cannot be an id or the batch is another's."""
    if not is_id(batch_id, "bat"):
        raise NotFoundError("batch", batch_id)
    return batches.get(conn, tenant_id, batch_id)
