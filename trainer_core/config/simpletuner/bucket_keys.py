"""Keys of data backends whose pictures are objects of an S3 bucket (``type: aws``)."""

import re
from typing import Final
from urllib.parse import urlsplit

from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.source_columns import block_of
from trainer_core.config.simpletuner.source_types import BucketSource
from trainer_core.config.simpletuner.verdicts import Option, Table

_BUCKET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

BUCKET_KEYS: Final = Table()
_BUCKET: Final = BUCKET_KEYS.text("aws_bucket_name", None, "aws: the bucket.")
_PREFIX: Final = BUCKET_KEYS.text(
    "aws_data_prefix", None, "aws: the folder of the pictures in the bucket; by default all of it."
)
BUCKET_KEYS.unlike(
    _PREFIX, "SimpleTuner lists the whole bucket, whatever the prefix; here only what is below it."
)
_ENDPOINT: Final = BUCKET_KEYS.text(
    "aws_endpoint_url", None, "aws: address of another service of S3; by default Amazon's."
)
_REGION: Final = BUCKET_KEYS.text(
    "aws_region_name", None, "aws: the region; by default as boto3 finds it, or us-east-1."
)
_ACCESS: Final = BUCKET_KEYS.secret(
    "aws_access_key_id", "aws: by default as boto3 finds it, such as in AWS_ACCESS_KEY_ID."
)
_SECRET: Final = BUCKET_KEYS.secret("aws_secret_access_key", "aws: the secret of that key.")
_SESSION: Final = BUCKET_KEYS.secret("aws_session_token", "aws: the token of a session.")
_BLOCK: Final = BUCKET_KEYS.value("aws", "aws: an object with the keys above.")
OF_BUCKETS: Final[tuple[Option[object], ...]] = (
    *(_BUCKET, _PREFIX, _ENDPOINT, _REGION, _ACCESS, _SECRET, _SESSION, _BLOCK),
)

_IN_BLOCK: Final = Table()
_OF_ROW: Final = {
    row.name: _IN_BLOCK.text(row.name, None, row.reason)
    for row in (_BUCKET, _PREFIX, _ENDPOINT, _REGION)
} | {row.name: _IN_BLOCK.secret(row.name, row.reason) for row in (_ACCESS, _SECRET, _SESSION)}
_IN_BLOCK.handled("aws_max_pool_connections", "There is nothing to set.")


def bucket_place(options: Options, folder: Option[str | None]) -> BucketSource | None:
    """The bucket of a backend; None, and problems, where something is missing or wrong.

    ``folder``: an older name of the prefix.
    """
    before = len(options.findings.problems)
    block = block_of(options, _BLOCK, _IN_BLOCK)

    def read(row: Option[str | None]) -> str | None:
        return options[row] or block[_OF_ROW[row.name]] or None

    prefix = read(_PREFIX)
    if prefix is not None:
        options.idle("with aws_data_prefix", folder)
    bucket, endpoint = read(_BUCKET), read(_ENDPOINT)
    access, secret, session = read(_ACCESS), read(_SECRET), read(_SESSION)
    _check_bucket(options, bucket)
    _check_endpoint(options, endpoint)
    for row, value in ((_ACCESS, access), (_SECRET, secret)):
        if value is None and (access or secret or session) and not options.is_wrong(row):
            message = f"{row.name} is missing: a key has an id and a secret. Or give neither here."
            options.problem(row, "missing", message)
    if bucket is None or len(options.findings.problems) > before:
        return None
    return BucketSource(
        bucket=bucket,
        prefix=_as_folder(prefix or options[folder] or ""),
        endpoint=endpoint,
        region=read(_REGION),
        access_key=access,
        secret_key=secret,
        session_token=session,
    )


def _check_bucket(options: Options, bucket: str | None) -> None:
    if bucket is None:
        if not options.is_wrong(_BUCKET):
            options.problem(_BUCKET, "missing", "type aws needs an aws_bucket_name.")
    elif not _BUCKET_NAME.fullmatch(bucket):
        message = (
            "aws_bucket_name is the bucket's name alone, such as my-pictures: the folder in it is "
            "aws_data_prefix, and the address of the service is aws_endpoint_url."
        )
        options.problem(_BUCKET, "bad_value", message)


def _check_endpoint(options: Options, endpoint: str | None) -> None:
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        is_plain = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.username is None
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment)
            and parts.port != 0
        )
    except ValueError:
        is_plain = False
    if not is_plain:
        message = (
            "aws_endpoint_url has to be an address such as https://s3.example.com, without a "
            "user, a bucket or a folder."
        )
        options.problem(_ENDPOINT, "bad_value", message)


def _as_folder(prefix: str) -> str:
    """A prefix as S3 has it, with one slash at its end; also where it was written as a path."""
    plain = prefix.removeprefix("/")
    return plain if not plain or plain.endswith("/") else f"{plain}/"
