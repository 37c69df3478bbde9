"""Finding the dataset that an address or a request names."""

from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import datasets
from services.store.database import Connection
from services.store.datasets import Dataset


def find_dataset(conn: Connection, tenant_id: str, dataset_id: str) -> Dataset:
    """Raises NotFoundError, also where the text cannot be an id or the dataset is another's."""
    if not is_id(dataset_id, "ds"):
        raise NotFoundError("dataset", dataset_id)
    return datasets.get(conn, tenant_id, dataset_id)
