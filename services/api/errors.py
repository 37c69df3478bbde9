"""Errors that only the HTTP API raises. Codes are public; ``problems`` has their statuses."""

from services.domain.errors import DomainError, InvalidRequestError


class UnauthenticatedError(DomainError):
    """The request has no API key, or one that is unknown, has expired or was revoked."""

    code = "unauthenticated"


class ScopeMissingError(DomainError):
    """The API key may not do this; the message names the scope, and what to ask for."""

    code = "scope_missing"


class WrongKeyError(DomainError):
    """The key of an operator where a tenant's is needed, or the other way round."""

    code = "wrong_key"


class RateLimitedError(DomainError):
    """Too many requests; the same one may succeed after a while."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        self.retry_after_s = max(1, retry_after_s)
        super().__init__(f"{message} Try again in {self.retry_after_s} s.")


class InvalidJsonError(DomainError):
    """The body cannot be read as JSON; the message says where."""

    code = "invalid_json"


class BodyTooSlowError(DomainError):
    """The body did not arrive in time."""

    code = "request_timeout"


class BodyTooLargeError(DomainError):
    """The body is larger than this address accepts."""

    code = "body_too_large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"The body is larger than {limit_bytes} bytes.")


class UnsupportedMediaTypeError(DomainError):
    """The Content-Type of the body is not JSON."""

    code = "unsupported_media_type"


class InvalidPlanError(InvalidRequestError):
    """The configuration makes no valid run; ``problems`` lists everything that is wrong."""

    code = "invalid_plan"


class DatasetRejectedError(InvalidRequestError):
    """A dataset of the run was rejected; ``problems`` names its bad files."""

    code = "dataset_rejected"


class RepeatedHeaderError(DomainError):
    """A header that may come once came twice; the message names it."""

    code = "repeated_header"


class VersionMismatchError(DomainError):
    """The object is not the one that If-Match names: it changed meanwhile."""

    code = "version_mismatch"

    def __init__(self, version: int) -> None:
        """``version`` is the one that the object has now."""
        super().__init__(f"The object has version {version} now. Get it again and decide anew.")


class NoPreviewError(DomainError):
    """The run samples no picture at the moment, or makes no previews."""

    code = "no_preview"


class NoResultError(DomainError):
    """The run has no result, or none yet."""

    code = "no_result"


class SecretsOffError(DomainError):
    """The service has no key to seal secrets with."""

    code = "secrets_off"


class SignatureRefusedError(DomainError):
    """The signed URL was altered, has expired, or is for another method."""

    code = "bad_signature"


class BodyMismatchError(DomainError):
    """The body's length or SHA-256 differs from the signed one; nothing is stored."""

    code = "body_mismatch"
