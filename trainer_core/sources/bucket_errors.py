"""What an S3 service refuses, in words that name the option to change. Secrets are in none."""

from collections.abc import Mapping
from typing import Any, Final

from trainer_core.config.simpletuner.source_types import BucketSource
from trainer_core.in_words import printable
from trainer_core.sources.errors import ChangedError, RowError, SourceError, UnreachableError

_SHOWN_CHARACTERS: Final = 60
_NO_KEYS: Final = (
    "without credentials: set aws_access_key_id and aws_secret_access_key, or AWS_ACCESS_KEY_ID "
    "and AWS_SECRET_ACCESS_KEY in the environment"
)
_TOO_WEAK: Final = "with these credentials: they need s3:ListBucket and s3:GetObject"
_OTHER_REGION: Final = "bucket {bucket} on {service} is in {region}: set aws_region_name"
_DENIED: Final = "bucket {bucket} on {service} may not be read {keys}"
_NO_KEY: Final = (
    "{service} does not know the access key: check aws_access_key_id, or AWS_ACCESS_KEY_ID and "
    "AWS_PROFILE"
)
_EXPIRED: Final = (
    "the session's token has expired: get a new one for aws_session_token or AWS_SESSION_TOKEN "
    "(aws sso login), then give the same command again"
)
_MEANINGS: Final[Mapping[str, str]] = {
    "NoSuchBucket": (
        "{service} has no bucket {bucket}: check aws_bucket_name, and aws_endpoint_url if the "
        "bucket is with another service"
    ),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AccountProblem": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _NO_KEY,
    "InvalidClientTokenId": _NO_KEY,
    "UnrecognizedClientException": _NO_KEY,
    "SignatureDoesNotMatch": (
        "{service} does not accept the signature: check aws_secret_access_key or "
        "AWS_SECRET_ACCESS_KEY, and aws_region_name"
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "InvalidToken": (
        "{service} does not accept the session's token: check aws_session_token or "
        "AWS_SESSION_TOKEN, which belongs to one access key"
    ),
    "RequestTimeTooSkewed": "the clock of this machine is wrong by more than 15 minutes: set it",
    "PermanentRedirect": _OTHER_REGION,
    "TemporaryRedirect": _OTHER_REGION,
    "301": _OTHER_REGION,
    "307": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "IllegalLocationConstraintException": _OTHER_REGION,
    "SecondLevelDomainForbidden": (
        "{service} wants the bucket in its host name, which is not built for other services"
    ),
}
"""Code of the service, or its status where it names none → what it means."""
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "PreconditionFailed", "404", "412"})
_OF_ONE_OBJECT: Final[Mapping[str, str]] = {
    "AccessDenied": "it may not be read with these credentials",
    "403": "it may not be read with these credentials",
    "InvalidObjectState": "it is archived: restore it first",
}


def error_of_object(error: Any) -> RowError | None:
    """What is wrong with one object; None where the error is one of the bucket or the service.

    ``error``: botocore's ClientError.
    """
    code = _code_of(error)
    if code in _GONE:
        return ChangedError("it changed or went while it was fetched")
    return RowError(_OF_ONE_OBJECT[code]) if code in _OF_ONE_OBJECT else None


def error_of_listing(error: Any, place: BucketSource, *, is_anonymous: bool) -> SourceError:
    """What is wrong with a bucket or the service.

    Args:
        error: botocore's ClientError.
        place: the bucket.
        is_anonymous: it was asked for without credentials.
    """
    code, answer = _code_of(error), error.response.get("ResponseMetadata", {})
    service = place.endpoint or "Amazon S3"
    meaning = _MEANINGS.get(code)
    if meaning is not None:
        headers = answer.get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response["Error"].get("Region")
        return SourceError(
            meaning.format(
                bucket=place.bucket,
                service=service,
                region=printable(region, _SHOWN_CHARACTERS) if region else "another region",
                keys=_NO_KEYS if is_anonymous else _TOO_WEAK,
            )
        )
    status = int(answer.get("HTTPStatusCode", 0))
    said = f"{service} answers {printable(code, _SHOWN_CHARACTERS)} for bucket {place.bucket}"
    if status >= 500 or status == 429 or code in ("SlowDown", "Throttling", "RequestTimeout"):
        return UnreachableError(f"{said}; give the same command again, it goes on where it stopped")
    return SourceError(f"{said}: check aws_bucket_name, aws_data_prefix and aws_endpoint_url")


def _code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
