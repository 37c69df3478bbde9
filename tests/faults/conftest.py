"""What several modules of this folder use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxied import ServiceOn, running_service
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.rgw import Bucket, S3Server, use_credentials


@pytest.fixture(scope="module")
def bucket(rgw_server: S3Server) -> Iterator[Bucket]:
    """A bucket for this module alone; its credentials are in the environment."""
    bucket = rgw_server.create_bucket()
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_credentials(bucket, monkeypatch)
        yield bucket


@pytest.fixture(scope="module")
def service_on(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    shared_redis_server: RedisServer,
    models_dir: Path,
) -> ServiceOn:
    """Run the service behind proxies, with its objects in this bucket or in a folder."""
    return lambda bucket: running_service(
        tmp_path_factory.mktemp("service"),
        postgres=postgres_server,
        redis=shared_redis_server,
        models_dir=models_dir,
        bucket=bucket,
    )
