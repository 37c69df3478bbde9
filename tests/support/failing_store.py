"""A folder store that can be made to fail, as a server does that is away or refuses."""

from pathlib import Path

from services.objects.errors import ObjectStoreError
from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner


class FailingStore(FolderStore):
    """Fails with ``error`` where there is one."""

    error: ObjectStoreError | None = None

    def put_file(self, key: str, path: Path) -> None:
        self._fail()
        super().put_file(key, path)

    def size(self, key: str) -> int | None:
        self._fail()
        return super().size(key)

    def get_first(self, key: str, num_bytes: int) -> bytes:
        self._fail()
        return super().get_first(key, num_bytes)

    def commit_once(self, key: str, body: bytes) -> bool:
        self._fail()
        return super().commit_once(key, body)

    def prove_conditional_writes(self) -> None:
        self._fail()
        super().prove_conditional_writes()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def store_in(folder: Path) -> FailingStore:
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 32)
    return FailingStore(folder / "objects", signer)
