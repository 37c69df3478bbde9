"""JSON as PostgreSQL and the API take it: without NaN, infinity and NUL characters."""

import math
from typing import Any


def storable(value: Any) -> Any:
    """The value with null for what is no number, and texts and keys without NUL."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value.replace("\0", "")
        case dict():
            return {key.replace("\0", ""): storable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [storable(inner) for inner in value]
        case _:
            return value
