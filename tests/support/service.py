"""Fixtures for tests that drive the whole service: one fleet a module, photographs, tenants."""

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
from tests.support.jobs import EXAMPLES, short_caption
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.tenant import Json, Tenant
from trainer_core.documents import load_document

SMALL_PX = 64
_SIZES = ("resolution", "minimum_image_size", "maximum_image_size", "target_downsample_size")


@pytest.fixture(scope="session")
def models_dir(tiny_models_dir: Path) -> Path:
    """The operator's folder of base models, with ``hidream-tiny`` in it."""
    return tiny_models_dir


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


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    """The API alone: its answers depend on the database and on no other process."""
    fleet = fleet_of()
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def tenant(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


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
    """The example photographs with short captions, as datasets: backend id to dataset id."""
    return {
        backend: tenant.push(_with_short_captions(EXAMPLES / "photos" / place), name=place)
        for backend, place in (("photos", "train"), ("held-out", "held_out"))
    }


def _with_short_captions(folder: Path) -> dict[str, bytes]:
    """Relative path → body, for each file of the dataset."""
    files = {}
    for photo in sorted(folder.glob("*.jpg")):
        files[photo.name] = photo.read_bytes()
        files[f"{photo.stem}.txt"] = short_caption(photo).encode()
    return files


def run_request(datasets: dict[str, str], *, edge_px: int = SMALL_PX, **config: Any) -> Json:
    """The demo's request, smaller: 64 px, 30 steps, a checkpoint every 5; ``config`` overrides."""
    demo = EXAMPLES / "demo"
    backends = load_document(demo / "multidatabackend.json")
    for backend in backends:
        backend.update({key: edge_px for key in _SIZES if key in backend})
    small = {
        "resolution": edge_px,
        "max_train_steps": 30,
        "checkpoint_step_interval": 5,
        "validation_num_inference_steps": 2,
        "validation_resolution": f"{edge_px}x{edge_px}",
        "eval_steps_interval": 0,
        "validation_step_interval": 0,
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
    """As ``run_request``, without held-out pictures: quick steps.

    In fp32, because a CPU may multiply bf16 several times more slowly.
    """
    quick = {
        "lr_warmup_steps": 2,
        "base_model_precision": "no_change",
        "mixed_precision": "no",
        "gradient_checkpointing": "false",
    }
    request = run_request(datasets, **{**quick, **config})
    kept = [each for each in request["data_backends"] if each["id"] != "held-out"]
    return {**request, "data_backends": kept}
