"""What several modules of this folder use."""

from pathlib import Path

import pytest

from tests.faults.proxied import ServiceOn, running_service
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer


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
