"""Deletions as JSON answers."""

from datetime import datetime
from typing import Literal

from services.api.shapes import JsonObject, Shape


class Deletion(Shape):
    """The deletion of a run, a dataset or a tenant, with the report of what went."""

    id: str
    object: Literal["deletion"] = "deletion"
    kind: Literal["run", "dataset", "tenant"]
    target: str
    """The id of what is deleted."""
    status: Literal["pending", "running", "succeeded"]
    waits_for: str | None
    """Why it does not go on at the moment."""
    report: JsonObject
    """So far: ``rows`` by table, ``objects`` by folder, ``kept``, ``shared``, ``checked``."""
    links: dict[str, str]
    created_at: datetime
    finished_at: datetime | None
