"""What a tenant sees of itself and of the service, as types."""

from typing import Literal, TypedDict

from services.client.shapes import Quota


class OwnTenant(TypedDict):
    """The tenant of the client's key, with its limits."""

    id: str
    object: Literal["tenant"]
    name: str
    quotas: list[Quota]
    links: dict[str, str]
    created_at: str


class GpuType(TypedDict):
    """A kind of machine that trains; what is not known is None."""

    id: str
    """The ``gpu_class`` of runs."""
    object: Literal["gpu_type"]
    memory_bytes: int | None
    capability: str | None
    price_micros_per_hour: int | None
    currency: str | None
