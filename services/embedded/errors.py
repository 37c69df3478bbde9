"""Errors of the embedded service."""


class EmbeddedError(Exception):
    """The service cannot start or keep running; the message names the way out or the log."""


class HomeInUseError(EmbeddedError):
    """Another ``reverie up`` uses this home."""
