"""The objects of an S3 bucket, listed and read by boto3. The one place here that imports it.

boto3 signs, cuts listings into pages, follows a bucket to its region, and finds credentials. Its
requests go out through ``web.exchanging``, so that an ``aws_endpoint_url`` in a stranger's
configuration, or a host name that changes, reaches nothing that its user did not allow.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from trainer_core.config.simpletuner.source_types import BucketSource
from trainer_core.sources.bucket_errors import error_of_listing, error_of_object
from trainer_core.sources.errors import ChangedError, RowError, SourceError, UnreachableError
from trainer_core.web.connecting import AddressRefusedError
from trainer_core.web.exchanging import Exchanges
from trainer_core.web.fetching import FetchError, retried
from trainer_core.web.public_addresses import Network

_TRIES: Final = 4
_FIRST_WAIT_S: Final = 0.5
_PIECE_BYTES: Final = 1 << 20
_MAX_LISTING_BYTES: Final = 64 << 20
"""Of one page: 1,000 objects, whose names have up to 1,024 bytes."""
_REQUEST_S: Final = 60.0
_SLOWEST_BYTES_S: Final = 1 << 20
_MAX_DENIED: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketObject:
    """An object as a listing has it."""

    key: str
    size_bytes: int
    etag: str
    """As it came, with its quotes; empty where the service gives none."""
    modified: str


class Bucket:
    """A context manager; several threads may read."""

    def __init__(
        self,
        place: BucketSource,
        *,
        allowed: Sequence[Network],
        takes_own_keys: bool,
    ) -> None:
        """
        Args:
            place: the bucket, and credentials if the configuration has some.
            allowed: networks that may be reached although they are not public.
            takes_own_keys: without credentials in ``place``, take those of this machine.

        Raises:
            SourceError: boto3 is not installed, or its configuration cannot be used.
        """
        self.place = place
        self._exchanges = Exchanges(allowed)
        self._max_bytes = _MAX_LISTING_BYTES
        self._client, self.is_anonymous = _client_of(place, takes_own_keys=takes_own_keys)
        self._client.meta.events.register("before-send.s3", self._send)
        self._denied = 0
        self._has_read = threading.Event()

    def objects(self, prefix: str) -> Iterator[BucketObject]:
        """The objects below a prefix, in the order of their keys; raises SourceError."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors():
            for page in pages.paginate(Bucket=self.place.bucket, Prefix=prefix):
                for each in page.get("Contents", ()):
                    yield BucketObject(
                        key=each["Key"],
                        size_bytes=int(each["Size"]),
                        etag=each.get("ETag", ""),
                        modified=str(each.get("LastModified", "")),
                    )

    def read_to(self, found: BucketObject, to: Path, stopping: threading.Event) -> None:
        """Write an object, tried several times where that may help; its size is for the caller.

        Raises:
            ChangedError: it is not what was listed any more.
            RowError: it cannot be read.
            SourceError: nothing of the bucket can be read.
        """
        self._max_bytes = max(self._max_bytes, found.size_bytes)
        once = partial(self._read_once, found, to, stopping)
        try:
            retried(once, tries=_TRIES, first_wait_s=_FIRST_WAIT_S, stopping=stopping)
        except FetchError as error:
            raise UnreachableError(_again(error.message)) from error
        self._has_read.set()

    def _read_once(self, found: BucketObject, to: Path, stopping: threading.Event) -> None:
        # A weak one, which Amazon never gives, would match nothing.
        condition = {"IfMatch": found.etag} if found.etag.startswith('"') else {}
        with self._errors(of_object=True):
            answer = self._client.get_object(Bucket=self.place.bucket, Key=found.key, **condition)
        body = answer["Body"]
        try:
            if found.etag and answer.get("ETag", found.etag) != found.etag:
                raise ChangedError("it changed while it was fetched")
            size_bytes = 0
            with to.open("wb") as file:
                while piece := body.read(_PIECE_BYTES):
                    size_bytes += len(piece)
                    if stopping.is_set():
                        raise RowError("it was stopped")
                    if size_bytes > found.size_bytes:
                        break
                    file.write(piece)
        finally:
            body.close()
        if size_bytes != found.size_bytes:
            raise ChangedError("it changed while it was fetched")

    @contextmanager
    def _errors(self, *, of_object: bool = False) -> Iterator[None]:
        """Raise boto3's errors as those of a source."""
        from botocore import exceptions  # noqa: PLC0415 - slow to import

        try:
            yield
        except exceptions.HTTPClientError as error:
            why = error.__cause__
            said = why.message if isinstance(why, FetchError) else "it does not answer"
            raise UnreachableError(_again(said)) from error
        except exceptions.ClientError as error:
            if of_object and (found := error_of_object(error)) is not None:
                self._count_denied(error)
                raise found from error
            raise error_of_listing(error, self.place, is_anonymous=self.is_anonymous) from error
        except exceptions.BotoCoreError as error:
            raise SourceError(
                f"boto3 cannot ask for bucket {self.place.bucket}: {error}"
            ) from error

    def _count_denied(self, error: Any) -> None:
        """Raise SourceError where it seems that no object may be read."""
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 403:
            return
        self._denied += 1
        if self._denied >= _MAX_DENIED and not self._has_read.is_set():
            raise error_of_listing(error, self.place, is_anonymous=self.is_anonymous) from error

    def _send(self, request: Any, event_name: str, **_: Any) -> Any:
        """boto3 asks this before it would send a request by itself."""
        from botocore.awsrequest import AWSResponse  # noqa: PLC0415 - slow to import
        from botocore.exceptions import ConnectionClosedError  # noqa: PLC0415 - slow to import

        is_of_object = event_name.endswith(".GetObject")
        try:
            answer = self._exchanges.send(
                request.method,
                request.url,
                dict(request.headers.items()),
                request.body or None,
                timeout_s=_REQUEST_S + self._max_bytes / _SLOWEST_BYTES_S,
                max_bytes=self._max_bytes if is_of_object else _MAX_LISTING_BYTES,
            )
            response = AWSResponse(request.url, answer.status, answer.headers, answer.body)
            if not is_of_object:
                _ = response.content  # read here, so that boto3 tries one that breaks off again
        except FetchError as error:
            if isinstance(error.__cause__, AddressRefusedError):
                raise SourceError(
                    f"{error.message}. If that network is yours, allow it: --allow-network "
                    "192.168.1.0/24, for example, before the address in aws_endpoint_url"
                ) from error
            if error.retryable:  # which boto3 tries again
                raise ConnectionClosedError(endpoint_url=request.url, request=None) from error
            raise UnreachableError(_again(error.message)) from error
        return response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
        self._exchanges.close()


def _again(why: str) -> str:
    return f"{why}; give the same command again, it goes on where it stopped"


def _client_of(place: BucketSource, *, takes_own_keys: bool) -> tuple[Any, bool]:
    """boto3's client, and whether it has no credentials, so that it asks as anybody."""
    try:
        import boto3  # noqa: PLC0415 - an extra, and slow to import
        from botocore import UNSIGNED  # noqa: PLC0415 - comes with boto3
        from botocore.config import Config  # noqa: PLC0415 - comes with boto3
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - comes with boto3
    except ImportError as error:
        raise SourceError(
            "buckets of S3 are read by boto3, which is not installed: pip install "
            "'reverie[sources]'"
        ) from error
    try:
        session = boto3.Session(
            aws_access_key_id=place.access_key,
            aws_secret_access_key=place.secret_key,
            aws_session_token=place.session_token,
        )
        has_keys = place.access_key is not None or (
            takes_own_keys and session.get_credentials() is not None
        )
        config = Config(
            signature_version="s3v4" if has_keys else UNSIGNED,
            retries={"mode": "standard", "max_attempts": _TRIES},
            # A service other than Amazon's rarely has a DNS name for every bucket.
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            response_checksum_validation="when_required",
            # What this machine is told about its own store is no matter of another's bucket.
            ignore_configured_endpoint_urls=not takes_own_keys,
        )
        region = place.region if takes_own_keys or place.region else "us-east-1"
        if region == "auto" and not place.endpoint:
            region = "us-east-1"
        client = session.client(
            "s3",
            endpoint_url=place.endpoint,
            region_name=region or session.region_name or "us-east-1",
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise SourceError(f"boto3 cannot ask for bucket {place.bucket}: {error}") from error
    return client, not has_keys
