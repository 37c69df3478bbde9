"""What only an HTTP edge can refuse; codes are public, statuses are in ``problems``."""

from services.domain.errors import DomainError, InvalidRequestError


class UnauthenticatedError(DomainError):
    """There is no API key in the request, or none that is known."""

    code = "unauthenticated"


class InvalidJsonError(DomainError):
    """The body cannot be read as JSON; the message tells where."""

    code = "invalid_json"


class BodyTooLargeError(DomainError):
    """The body is larger than this address takes."""

    code = "body_too_large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"The body is larger than {limit_bytes} bytes.")


class UnsupportedMediaTypeError(DomainError):
    """The body is not announced as JSON."""

    code = "unsupported_media_type"


class InvalidPlanError(InvalidRequestError):
    """No run can be made of this; ``problems`` lists everything that is wrong."""

    code = "invalid_plan"


class DatasetRejectedError(InvalidRequestError):
    """A dataset that the run names was rejected; ``problems`` names its bad files."""

    code = "dataset_rejected"


class NoResultError(DomainError):
    """The run has no result (yet)."""

    code = "no_result"


class SignatureRefusedError(DomainError):
    """The signed URL was altered, has expired, or is for another method."""

    code = "bad_signature"


class BodyMismatchError(DomainError):
    """The bytes sent are not those that the URL was signed for; nothing is stored."""

    code = "body_mismatch"
