"""Fixtures of both object stores: a folder with a server for its signed URLs, and an RGW bucket."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from services.objects.errors import BadSignatureError, ObjectStoreError
from services.objects.folder_store import FolderStore
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.objects.s3_store import S3Store
from services.objects.signing import UrlSigner, verify_signed
from services.settings.env import Settings
from tests.support.rgw import Bucket

SIGNING_KEY = b"0123456789abcdef"
BODY = b"the quick brown fox" * 50
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    name = "folder_store" if request.param == "folder" else "s3_store"
    made: ObjectStore = request.getfixturevalue(name)
    return made


@pytest.fixture
def folder_store(tmp_path: Path) -> Iterator[FolderStore]:
    """A folder store, with a minimal server for its signed URLs."""
    handler = type("Handler", (_SignedUrls,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        made = FolderStore(tmp_path / "objects", UrlSigner(api_url=url, signing_key=SIGNING_KEY))
        handler.store = made  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def s3_store(rgw_bucket: Bucket) -> S3Store:
    return open_bucket(rgw_bucket)


def open_bucket(bucket: Bucket) -> S3Store:
    """The bucket as the service opens it, credentials from the environment."""
    made = open_store(Settings.from_env({"REVERIE_OBJECTS_URL": bucket.url}))
    assert isinstance(made, S3Store)
    return made


class _SignedUrls(BaseHTTPRequestHandler):
    """GET and PUT below /objects/ with a valid signature."""

    store: FolderStore

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(lambda key, _: self.store.get_bytes(key, limit_bytes=1 << 20))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))

        def receive(key: str, grant: Any) -> bytes:
            facts = {"size_bytes": grant.size_bytes, "sha256": grant.sha256}
            if grant.part is None:
                self.store.receive(key, [body], **facts)
            else:
                self.store.parts.receive(key, grant.part, [body], **facts)
            return b""

        self._answer(receive)

    def _answer(self, work: Callable[[str, Any], bytes]) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix("/objects/")
        query = dict(parse_qsl(parts.query))
        try:
            grant = verify_signed(key, query, SIGNING_KEY, datetime.now(UTC), self.command)
            status, body = 200, work(key, grant)
        except BadSignatureError:
            status, body = 403, b""
        except ObjectStoreError:
            status, body = 400, b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
