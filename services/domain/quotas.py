"""Quotas: how much of the service a tenant may use at once, in a month, or in a minute."""

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """One tenant's quotas; the defaults here are the service's, unless its operator sets others."""

    queued_runs: int = 10_000
    """Runs that are not over, those that train included."""
    concurrent_runs: int = 1_000
    """Runs that workers hold or that are offered to one."""
    gpu_hours: float = 10_000.0
    """Charged in one calendar month, UTC."""
    storage_bytes: int = 10**13
    """Files of datasets, checkpoints and results."""
    uploads: int = 1_000
    """Datasets that are still being uploaded."""
    requests_per_minute: int = 6_000
    """That create something; ``services.domain.request_rates`` says what follows for others."""


QUOTA_NAMES: Final = tuple(field.name for field in fields(Quotas))

ALLOWS: Final = {
    "queued_runs": "runs that are not over",
    "uploads": "datasets that are still being uploaded",
    "storage_bytes": "bytes of dataset files, checkpoints and results",
}
"""The quotas that refuse a request, and what each of them counts."""
WAY_OUT: Final = {
    "queued_runs": "Wait until a run is over, or cancel one",
    "uploads": "Upload what is missing of one and complete it",
    "storage_bytes": "Use a dataset that is stored already",
}
"""What the tenant can do without the operator."""
