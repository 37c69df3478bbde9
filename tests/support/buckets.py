"""Sources in S3 buckets: fetched without keys of the machine and without waits."""

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer_core.config.simpletuner.source_types import BucketSource, PictureSource
from trainer_core.progress import SilentReporter
from trainer_core.sources.fetching import FetchedSource, fetch_source
from trainer_core.sources.surroundings import Surroundings


@pytest.fixture
def without_aws_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys of this machine."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture
def without_bucket_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before boto3 or a download tries again."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("trainer_core.sources.bucket_client._FIRST_WAIT_S", 0.001)


def source_of(place: BucketSource, **options: Any) -> PictureSource:
    return PictureSource(place=place, **{"wants_captions": True, **options})


def get(
    tmp_path: Path,
    source: PictureSource,
    reporter: SilentReporter | None = None,
    *,
    allowed: str = "127.0.0.0/8",
    **more: Any,
) -> FetchedSource:
    networks = (ipaddress.ip_network(allowed),)
    around = Surroundings(root=tmp_path / "sources", folders=(tmp_path,), allowed=networks, **more)
    return fetch_source("photos", source, around, reporter or SilentReporter())


def content(found: FetchedSource) -> dict[str, tuple[bytes, str]]:
    """Path of each picture → its bytes and its captions."""
    return {
        file.relative_to(found.folder).as_posix(): (
            file.read_bytes(),
            text.read_text() if (text := file.with_suffix(".txt")).exists() else "",
        )
        for file in sorted(found.folder.rglob("*"))
        if file.is_file() and file.suffix != ".txt"
    }


def listing(objects: Mapping[str, bytes], tag: Callable[[bytes], str] | None = None) -> bytes:
    """What S3 answers to a listing of these objects, with ETags if there is a ``tag`` for them."""
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(body)}</Size>"
        + (f"<ETag>&quot;{tag(body)}&quot;</ETag>" if tag else "")
        + "</Contents>"
        for key, body in objects.items()
    )
    page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    return page.encode()
