"""GPU types as JSON."""

from typing import Literal

from services.api.shapes import Shape


class GpuType(Shape):
    """A kind of machine that trains: what it has, and what an hour of it costs."""

    id: str
    """The ``gpu_class`` of runs."""
    object: Literal["gpu_type"] = "gpu_type"
    memory_bytes: int | None
    """Of one GPU, or of the machine where it is ``cpu``; null where that is not known."""
    capability: str | None
    """Of the GPU, such as ``9.0``; null where that is not known, or there is no GPU."""
    price_micros_per_hour: int | None
    """Of one GPU, in millionths of the currency; null where the operator set no price."""
    currency: str | None
    """ISO 4217."""
