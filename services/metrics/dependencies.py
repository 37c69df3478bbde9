"""Metrics of the servers that every process needs: the database and the object store."""

from typing import Final

from prometheus_client import Counter, Gauge

database_errors: Final = Counter(
    "reverie_database_errors_total",
    "Transactions that failed, by kind: down, busy, too_large, unexpected.",
    ["kind"],
)
object_store_errors: Final = Counter(
    "reverie_object_store_errors_total",
    "Requests to the object store that failed, by code. A missing object is not counted.",
    ["code"],
)
database_is_restored: Final = Gauge(
    "reverie_database_restored",
    "1 while the database is older than the object store: no run is claimed, nothing is deleted.",
    multiprocess_mode="max",
)
