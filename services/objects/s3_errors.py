"""What boto3 raises, as the errors of the port."""

import contextlib
from collections.abc import Iterator

from boto3.exceptions import RetriesExceededError
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError

from services.metrics.dependencies import object_store_errors
from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreError,
    ObjectStoreRefusedError,
    WrongClockError,
)


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn what boto3 raises into the port's errors."""
    try:
        yield
    except ClientError as error:
        raise _answered(error, key) from error
    except (NoConnectionError, HTTPClientError, RetriesExceededError) as error:
        object_store_errors.labels(code=ObjectStoreDownError.code).inc()
        raise ObjectStoreDownError(f"{key}: {error}") from error
    except BotoCoreError as error:  # no credentials, a parameter that botocore refuses
        object_store_errors.labels(code=ObjectStoreRefusedError.code).inc()
        raise ObjectStoreRefusedError(f"{key}: {error}") from error


def _answered(error: ClientError, key: str) -> ObjectStoreError:
    code, status = str(error.response["Error"].get("Code")), status_of(error)
    is_bare = status == 404 and code == "404"  # a HEAD has no body, so no code
    if code in ("NoSuchKey", "NoSuchUpload") or is_bare:
        return ObjectMissingError(key)
    object_store_errors.labels(code=f"http_{status}").inc()
    if status >= 500 or status == 429 or code in ("RequestTimeout", "SlowDown"):
        return ObjectStoreDownError(f"{key}: the store answered {status} {code}")
    if code == "RequestTimeTooSkewed":
        return WrongClockError(f"{key}: the store answered {status} {code}")
    return ObjectStoreRefusedError(f"{key}: the store answered {status} {code}")


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
