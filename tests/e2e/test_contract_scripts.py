"""examples/contract: both scripts end well on a real stack, and call every operation of the API."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.store import operator_keys
from tests.support.api_keys import KEY_PEPPER
from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.redis import RedisServer
from tests.support.service import EXAMPLES, database_of

OPENAPI = EXAMPLES.parent / "docs" / "reference" / "openapi.json"
SCRIPTS = {
    "contract.sh": ["bash", str(EXAMPLES / "contract" / "contract.sh")],
    "contract.py": [sys.executable, str(EXAMPLES / "contract" / "contract.py")],
}
NOT_CALLED = {
    "contract.sh": set[str](),
    # The client has methods for what needs a key; these two are for probes.
    "contract.py": {"healthz", "readyz"},
}
"""Script → operations that it leaves out."""
WITHIN_S = 300


def addresses(path: str) -> re.Pattern[str]:
    """The addresses that a path of the OpenAPI document stands for."""
    names = {"{path}": ".+"}  # with slashes; an id has none, and no colon
    parts = re.split(r"(\{\w+\})", path)
    return re.compile(
        "".join(names.get(p, "[^/:]+") if p.startswith("{") else re.escape(p) for p in parts)
    )


OPERATIONS = [
    (method.upper(), addresses(path), operation["operationId"])
    for path, item in json.loads(OPENAPI.read_text())["paths"].items()
    for method, operation in item.items()
]


def operation_of(method: str, path: str) -> str | None:
    """The id of the operation that a request asks for; None where it is none's."""
    return next(
        (name for verb, at, name in OPERATIONS if verb == method and at.fullmatch(path)), None
    )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a script did."""

    status: int
    output: str
    called: set[str]
    """Ids of operations."""


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    shared_redis_server: RedisServer,
    models_dir: Path,
) -> Iterator[Fleet]:
    """Two trainers, whose training processes are forked; the rest of the service is as it is."""
    home = tmp_path_factory.mktemp("contract")
    env = {
        "REVERIE_DATABASE_URL": postgres_server.create_database(),
        "REVERIE_BROKER_URL": shared_redis_server.url,
        "REVERIE_OBJECTS_URL": f"file://{home}/objects",
        "REVERIE_MODELS_DIR": str(models_dir),
    }
    fleet = Fleet(home, env)
    with ExitStack() as opened:
        opened.callback(fleet.stop)
        for name in ("api", "dispatcher", "cache_builder", "results", "trainer-1", "trainer-2"):
            fleet.start(name)
        fleet.wait_ready()
        yield fleet


@pytest.fixture(scope="module")
def ended(fleet: Fleet) -> dict[str, Ended]:
    """Both scripts, at the same time; each with a proxy of its own before the API."""
    with database_of(fleet) as database, database.transaction() as conn:
        operator_key = operator_keys.create(conn, KEY_PEPPER, name="operator")[1]
    found = {}
    with ExitStack() as opened:
        running = {}
        for name, command in SCRIPTS.items():
            proxy = opened.enter_context(FaultProxy(fleet.port).running())
            env = {
                **{k: v for k, v in os.environ.items() if not k.startswith("REVERIE_")},
                "PYTHONPATH": str(EXAMPLES.parent),
                "REVERIE_URL": f"http://127.0.0.1:{proxy.port}",
                "REVERIE_OPERATOR_KEY": operator_key,
            }
            process = subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            opened.callback(process.wait)
            opened.callback(process.kill)
            running[name] = (process, proxy)
        for name, (process, proxy) in running.items():
            try:
                process.wait(WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
            output = process.communicate()[0]
            asked = {operation_of(*request) for request in proxy.requests}
            called = {name for name in asked if name is not None}
            found[name] = Ended(status=process.returncode, output=output, called=called)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends_well_and_calls_every_operation(script: str, ended: dict[str, Ended]) -> None:
    done = ended[script]
    assert done.status == 0, done.output[-4000:]
    every = {name for _, _, name in OPERATIONS}
    assert every - done.called == NOT_CALLED[script], "add a section for them to examples/contract"
