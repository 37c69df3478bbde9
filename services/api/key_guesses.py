"""Unknown API keys, counted by client, so that a flood of them spares the database."""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_PER_MINUTE: Final = 60
"""Unknown keys of one client, at once or within a minute."""
_MOST_CLIENTS: Final = 10_000
_MOST_KEYS: Final = 10_000


class KeyGuesses:
    """Of one process. A client is an address or a network; the oldest make room for new ones.

    Keys that were seen to be valid are never refused here: tenants may share an address with
    someone who guesses, such as that of a proxy. The database still decides whether they are valid.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Client → (unknown keys that it may still send, when that was, by ``now_s``)."""
        self._valid: OrderedDict[bytes, str] = OrderedDict()
        """Digest of a key → its owner."""

    def wait_s(self, client: str, key: str) -> int:
        """Seconds until this client may try this key; 0 where it may now."""
        if _digest(key) in self._valid:
            return 0
        left = self._left_of(client)
        return 0 if left >= 1 else math.ceil((1 - left) * 60 / _PER_MINUTE)

    def note_unknown(self, client: str, key: str) -> None:
        """The database does not know this key, or it was revoked."""
        self._valid.pop(_digest(key), None)
        self._left[client] = (self._left_of(client) - 1, self._now_s())
        self._left.move_to_end(client)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)

    def owner_of(self, key: str) -> str | None:
        """Whose the key was when it was last seen; None where it was not seen to be valid."""
        return self._valid.get(_digest(key))

    def note_valid(self, key: str, owner: str) -> None:
        """The key belongs to this tenant, or is the operator's key of this id."""
        digest = _digest(key)
        self._valid[digest] = owner
        self._valid.move_to_end(digest)
        if len(self._valid) > _MOST_KEYS:
            self._valid.popitem(last=False)

    def _left_of(self, client: str) -> float:
        left, at_s = self._left.get(client, (_PER_MINUTE, 0.0))
        return min(_PER_MINUTE, left + (self._now_s() - at_s) * _PER_MINUTE / 60)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
