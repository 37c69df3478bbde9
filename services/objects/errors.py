"""The errors of the object store, each with a code and whether another try can help."""

from typing import Final


class ObjectStoreError(Exception):
    """Base of every error of the object store."""

    code = "object_store_error"
    retryable = False


class ObjectMissingError(ObjectStoreError):
    """No object is stored under this key."""

    code = "object_missing"

    def __init__(self, key: str) -> None:
        super().__init__(f"no object at {key}")
        self.key: Final = key


class ObjectCorruptError(ObjectStoreError):
    """The object's size or SHA-256 differs from its manifest or its signed URL."""

    code = "object_corrupt"

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key: Final = key


class ObjectTooBigError(ObjectStoreError):
    """The object is larger than the reader's limit."""

    code = "object_too_big"

    def __init__(self, key: str, *, limit_bytes: int) -> None:
        super().__init__(f"{key} is larger than {limit_bytes} bytes")
        self.key: Final = key


class ObjectStoreDownError(ObjectStoreError):
    """The store does not answer, or answers that it cannot at the moment."""

    code = "object_store_down"
    retryable = True


class ObjectStoreRefusedError(ObjectStoreError):
    """The store refuses: wrong credentials, missing rights, a missing bucket."""

    code = "object_store_refused"


class WrongClockError(ObjectStoreRefusedError):
    """The store refuses signed requests, because the clock of this machine is wrong."""

    code = "clock_wrong"


class ConditionalWritesError(ObjectStoreError):
    """The store ignores If-None-Match, so two writers could both believe that they committed."""

    code = "no_conditional_writes"


class InvalidKeyError(ObjectStoreError, ValueError):
    """The key is not a plain relative path, as ``keys.check_key`` requires."""

    code = "invalid_key"

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"key {key[:200]!r}: {problem}")


class BadSignatureError(ObjectStoreError):
    """A signed URL that was altered, has expired, or is for another method or key."""

    code = "bad_signature"
