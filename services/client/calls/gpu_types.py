"""Where runs train, and what that costs."""

from dataclasses import replace

from services.client.call import Call, get, page_of
from services.client.shapes import Page
from services.client.tenant_shapes import GpuType


def list_gpu_types() -> Call[Page[GpuType]]:
    """What each type of GPU has, and the price of an hour of it; all of them, by name."""
    return replace(get("/v1/gpu-types"), read=page_of)
