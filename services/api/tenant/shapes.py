"""The tenant as it sees itself, as JSON."""

from datetime import datetime
from typing import Literal

from services.api.shapes import Shape
from services.api.usage.shapes import Quota


class OwnTenant(Shape):
    """The tenant of the API key, with its limits."""

    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    quotas: list[Quota]
    links: dict[str, str]
    created_at: datetime
