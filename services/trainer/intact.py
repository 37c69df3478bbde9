"""Downloads that are repeated where their bytes are damaged."""

import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.trainer.lease import Lease

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""Damage in transit is repaired by a second download; damage in the store is not."""


def intact(get: Callable[[], None], lease: Lease, *, doing: str) -> bool:
    """Download up to three times; False where the object was damaged or missing each time."""
    for tries in range(1, _TRIES + 1):
        try:
            lease.until_answered(get, doing=doing)
        except (ObjectCorruptError, ObjectMissingError) as error:
            log.warning(
                "object_damaged", doing=doing, error=type(error).__name__, reason=str(error)
            )
            if tries < _TRIES:
                time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - jitter, no secret
        else:
            return True
    return False
