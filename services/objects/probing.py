"""The proof that a store lets one writer only create an object."""

import secrets
import time
from typing import Final

from services.objects.errors import ConditionalWritesError
from services.objects.keys import PROBE_PREFIX
from services.objects.port import ObjectStore
from trainer_core.faultpoints import fault_point

_LEFT_AFTER_S: Final = 3600
"""A probe that is older was left by a process that was killed; a proof takes seconds."""


def prove_conditional_writes(store: ObjectStore, refusal: str) -> None:
    """Write an object twice, and delete it, and those of processes that were killed before that.

    Raises ConditionalWritesError with ``refusal`` where the second write succeeds.
    """
    now_s = int(time.time())
    for key in list(store.list_keys(PROBE_PREFIX)):
        if now_s - _written_s(key, now_s) > _LEFT_AFTER_S:
            store.delete(key)
    key = f"{PROBE_PREFIX}{now_s}-{secrets.token_hex(16)}"
    try:
        if not store.commit_once(key, b"first") or store.commit_once(key, b"second"):
            raise ConditionalWritesError(refusal)
        fault_point("objects.probed")
    finally:
        store.delete(key)


def _written_s(key: str, now_s: int) -> int:
    """When a probe was written, in seconds since 1970; now, where its name does not say it."""
    written, dash, _ = key.removeprefix(PROBE_PREFIX).partition("-")
    return int(written) if dash and written.isascii() and written.isdigit() else now_s
