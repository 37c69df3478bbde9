"""Fixtures of both object stores: a folder with a server for its signed URLs, and an RGW bucket."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from services.api.edge import RequestEdge
from services.api.objects.routes import objects_router
from services.api.problems import install_handlers
from services.objects.folder_store import FolderStore
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.objects.s3_store import S3Store
from services.objects.signing import UrlSigner
from services.settings.env import Settings
from tests.support.rgw import Bucket
from tests.support.waiting import wait_until

SIGNING_KEY = b"0123456789abcdef"
BODY = b"the quick brown fox" * 50
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    name = "folder_store" if request.param == "folder" else "s3_store"
    made: ObjectStore = request.getfixturevalue(name)
    return made


def plain_folder(root: Path) -> FolderStore:
    """A folder store whose signed URLs nobody serves."""
    return FolderStore(root, UrlSigner(api_url="http://nowhere", signing_key=SIGNING_KEY))


@pytest.fixture
def folder_store(tmp_path: Path) -> Iterator[FolderStore]:
    """A folder store, with the API's own routes for its signed URLs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        made = FolderStore(tmp_path / "objects", UrlSigner(api_url=url, signing_key=SIGNING_KEY))
        app = FastAPI()
        app.add_middleware(RequestEdge)
        install_handlers(app)
        app.include_router(objects_router(made))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, what="the server of signed URLs", every_s=0.005)
        yield made
        server.should_exit = True
        thread.join()


@pytest.fixture
def s3_store(rgw_bucket: Bucket) -> S3Store:
    return open_bucket(rgw_bucket)


def open_bucket(bucket: Bucket) -> S3Store:
    """The bucket as the service opens it, credentials from the environment."""
    made = open_store(Settings.from_env({"REVERIE_OBJECTS_URL": bucket.url}))
    assert isinstance(made, S3Store)
    return made
