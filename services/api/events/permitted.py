"""Open streams end soon after their key may no longer read."""

import time
from collections.abc import Sequence
from typing import Final

from services.api.events.follow import POLL_S, Read
from services.api.service import Service
from services.domain.access import Actor, Scope
from services.store import valid_keys

_CHECK_S: Final = POLL_S - 1  # so that each poll checks


def while_permitted(service: Service, actor: Actor, scope: Scope, read: Read) -> Read:
    """``read``, until the key is revoked or expires, or its member may not do this any more.

    It is looked at once in ``_CHECK_S``, so a stream goes on for ``2 * POLL_S`` at most.
    """
    checked_at_s = time.monotonic()

    def read_if_permitted() -> tuple[Sequence[str], bool]:
        nonlocal checked_at_s
        if time.monotonic() - checked_at_s >= _CHECK_S:
            with service.database.transaction(actor.tenant_id) as conn:
                now = valid_keys.find_actor(conn, actor.tenant_id, actor.key_id)
            if now is None or scope not in now.scopes:
                return [], True
            checked_at_s = time.monotonic()
        return read()

    return read_if_permitted
