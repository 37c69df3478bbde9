"""JSON Pointer (RFC 6901): how a problem names a place in the body."""

from collections.abc import Iterable


def json_pointer(parts: Iterable[object]) -> str:
    """``("config", "a/b")`` → ``/config/a~1b``; no parts name the whole body."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)
