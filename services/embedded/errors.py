"""What can keep the embedded service from running."""


class EmbeddedError(Exception):
    """It cannot start or keep running; the message says what to do and which log to read."""


class HomeInUseError(EmbeddedError):
    """Another ``reverie up`` uses this home."""
