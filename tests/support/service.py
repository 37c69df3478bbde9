"""Fixtures for tests that drive the whole service: one fleet a module, photographs, tenants."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.store import tenants
from services.store.database import Database
from tests.support.api_keys import new_api_key
from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.tenant import Json, Tenant
from trainer_core.documents import load_document

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL_PX = 64


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's folder of base models, with ``hidream-tiny`` in it."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run(
        [sys.executable, "-m", "trainer_core", "make-tiny", str(folder / "hidream-tiny")],
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def fleet_of(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    shared_redis_server: RedisServer,
    models_dir: Path,
) -> Iterator[Callable[..., Fleet]]:
    """Make a fleet over a fresh database; ``fleet_of(NAME=value)`` sets its environment.

    ``fresh=True``: its processes are no forks.
    """
    fleets: list[Fleet] = []
    databases: list[str] = []

    def make(*, fresh: bool = False, **env: str) -> Fleet:
        home = tmp_path_factory.mktemp("fleet")
        databases.append(postgres_server.create_database())
        fleet = Fleet(
            home,
            {
                "REVERIE_DATABASE_URL": databases[-1],
                "REVERIE_BROKER_URL": shared_redis_server.url,
                "REVERIE_OBJECTS_URL": f"file://{home}/objects",
                "REVERIE_MODELS_DIR": str(models_dir),
                **env,
            },
            fresh=fresh,
        )
        fleets.append(fleet)
        return fleet

    yield make
    for fleet in fleets:
        fleet.stop()
    for url in databases:
        postgres_server.drop_database(url)


def new_tenant(fleet: Fleet, name: str) -> Tenant:
    """A tenant with a fresh key, made by the operator's own functions."""
    return Tenant(fleet.url, new_key(fleet.env["REVERIE_DATABASE_URL"], name))


def new_key(database_url: str, name: str) -> str:
    """The API key of a new tenant."""
    database = Database(database_url, max_size=1)
    try:
        with database.transaction() as conn:
            tenant_id = tenants.create_tenant(conn, name)
            return new_api_key(conn, tenant_id)
    finally:
        database.close()


@contextmanager
def database_of(fleet: Fleet) -> Iterator[Database]:
    """The fleet's database, to stand in for processes that are not started."""
    database = Database(fleet.env["REVERIE_DATABASE_URL"], max_size=2)
    try:
        yield database
    finally:
        database.close()


def push_unread(tenant: Tenant) -> dict[str, str]:
    """Datasets for runs that nobody trains: backend id to dataset id."""
    dataset = tenant.push({"a.jpg": b"not looked at here"})
    return {"photos": dataset, "held-out": dataset}


def push_photos(tenant: Tenant) -> dict[str, str]:
    """The example photographs as datasets: backend id to dataset id."""
    photos = EXAMPLES / "photos"
    return {
        "photos": tenant.push_folder(photos / "train"),
        "held-out": tenant.push_folder(photos / "held_out"),
    }


def run_request(datasets: dict[str, str], **config: Any) -> Json:
    """The demo's request, smaller: 128 px, 30 steps, a checkpoint every 5; ``config`` overrides."""
    demo = EXAMPLES / "demo"
    backends = load_document(demo / "multidatabackend.json")
    for backend in backends:
        if "resolution" in backend:
            sizes = (
                "resolution",
                "minimum_image_size",
                "maximum_image_size",
                "target_downsample_size",
            )
            backend.update({key: 128 for key in sizes if key in backend})
    small = {
        "resolution": 128,
        "max_train_steps": 30,
        "checkpoint_step_interval": 5,
        "validation_num_inference_steps": 2,
        "validation_resolution": "128x128",
    }
    return {
        "config": {**load_document(demo / "config.json"), **small, **config},
        "lycoris_config": load_document(demo / "lycoris_config.json"),
        "data_backends": backends,
        "datasets": datasets,
    }


def small_photos(folder: Path) -> Path:
    """Two small photographs with short captions: long ones take most of a tiny model's time."""
    folder.mkdir()
    for name in ("astronaut_portrait", "espresso_cup"):
        with Image.open(EXAMPLES / "photos" / "train" / f"{name}.jpg") as photo:
            photo.resize((96, 96)).save(folder / f"{name}.jpg", quality=90)
        (folder / f"{name}.txt").write_text(name.partition("_")[0])
    return folder


def small_run_request(datasets: dict[str, str], **config: Any) -> Json:
    """As ``run_request``, with pictures of 64 px and without held-out ones: quick steps."""
    request = run_request(
        datasets,
        **{
            "resolution": SMALL_PX,
            "validation_resolution": f"{SMALL_PX}x{SMALL_PX}",
            "lr_warmup_steps": 2,
            "base_model_precision": "no_change",
            **config,
        },
    )
    backends = [each for each in request["data_backends"] if each["id"] != "held-out"]
    for backend in backends:
        backend.update({key: SMALL_PX for key, value in backend.items() if value == 128})
    request["data_backends"] = backends
    return request
