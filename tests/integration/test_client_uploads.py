"""Large files are sent in parts: an interrupted push goes on, and changed files are refused."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.api.datasets.part_sizes import PART_BYTES, WHOLE_BYTES, part_sizes
from services.client.client import Client
from services.client.dataset_shapes import NewFile, Upload
from services.client.errors import (
    FileChangedError,
    ProblemError,
    UploadFailedError,
    WaitTooLongError,
)
from services.client.push import push_folder
from services.client.retry import Retry
from services.client.upload import Uploader
from tests.support.fleet import Fleet
from tests.support.service import new_key

SIZE = WHOLE_BYTES + 5
QUICK = Retry(tries=3, first_wait_s=0.01, limit_s=0.05)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    key = new_key(fleet.env["REVERIE_DATABASE_URL"], f"ada-{os.urandom(4).hex()}")
    with Client(fleet.url, key, retry=QUICK) as client:
        yield client


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that is large enough for three parts; the service does not look at its content yet."""
    path = tmp_path / "large.png"
    path.write_bytes(os.urandom(SIZE))
    return path


def declared(path: Path) -> NewFile:
    body = path.read_bytes()
    return {
        "path": path.name,
        "size_bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }


class Push:
    """A dataset of one file, and how often the store was asked to take bytes."""

    def __init__(self, client: Client, path: Path, *, fail_at: int | None = None) -> None:
        self.client, self.path, self.file = client, path, declared(path)
        self.sent: list[int] = []
        self.puts = 0
        self.fail_at = fail_at
        self.dataset_id = client.create_dataset("large", [self.file])["id"]

    def upload(self) -> Upload:
        (upload,) = self.client.sign_uploads(self.dataset_id).data
        return upload

    def run(self) -> None:
        def count(_request: httpx.Request) -> None:
            self.puts += 1
            if self.puts == self.fail_at:
                raise KeyboardInterrupt

        with httpx.Client(event_hooks={"request": [count]}) as store:
            Uploader(
                client=self.client,
                store=store,
                dataset_id=self.dataset_id,
                note_sent=self.sent.append,
            ).send(self.path, self.file, self.upload())


def test_a_large_file_arrives_in_parts(client: Client, photo: Path) -> None:
    push = Push(client, photo)
    upload = push.upload()
    assert (upload["part_size_bytes"], upload["url"]) == (PART_BYTES, None)
    push.run()

    assert push.puts == 3
    assert push.sent == part_sizes(SIZE)
    assert push.upload()["present"]
    assert client.complete_dataset(push.dataset_id)["num_files"] == 1
    again = Push(client, photo)  # its content is stored already
    assert again.upload()["present"]


def test_an_interrupted_push_goes_on_where_it_was(client: Client, photo: Path) -> None:
    first = Push(client, photo, fail_at=3)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert not first.upload()["present"]

    second = Push(client, photo)
    second.run()
    assert second.puts == 1
    assert second.sent == part_sizes(SIZE)
    assert second.upload()["present"]
    assert first.upload()["present"]


def test_a_file_that_changes_meanwhile_is_refused(client: Client, photo: Path) -> None:
    push = Push(client, photo)
    with photo.open("r+b") as file:
        file.write(b"other")
    with pytest.raises(FileChangedError):
        push.run()
    with photo.open("ab") as file:
        file.write(b"longer")
    with pytest.raises(FileChangedError):
        push.run()
    assert push.puts == 0


def test_parts_that_do_not_fit_the_file_are_refused(client: Client, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    small.write_bytes(b"small")
    push = Push(client, small)
    digest = "0" * 64

    def refusal(path: str, *digests: str) -> tuple[str, str]:
        with pytest.raises(ProblemError) as caught:
            client.sign_parts(push.dataset_id, path, list(digests))
        assert caught.value.status == 422
        return caught.value.errors[0].pointer, caught.value.errors[0].code

    assert refusal("small.png", digest) == ("/path", "bad_value")
    assert refusal("none.png", digest) == ("/path", "not_found")
    assert refusal("small.png", "no digest") == ("/sha256/0", "bad_value")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(SIZE))
    push = Push(client, large)
    assert refusal("large.png", digest) == ("/sha256", "bad_value")
    push.run()
    client.complete_dataset(push.dataset_id)
    with pytest.raises(ProblemError) as closed:
        client.sign_parts(push.dataset_id, "large.png", [digest] * 3)
    assert (closed.value.status, closed.value.code) == (409, "dataset_not_open")


def test_a_part_that_the_store_refuses_is_named(client: Client, photo: Path) -> None:
    push = Push(client, photo)

    def misdirect(request: httpx.Request) -> None:
        request.url = request.url.copy_merge_params({"signature": "00"})

    with httpx.Client(event_hooks={"request": [misdirect]}) as store:
        uploader = Uploader(
            client=client, store=store, dataset_id=push.dataset_id, note_sent=push.sent.append
        )
        with pytest.raises(UploadFailedError, match=r"large\.png, part 1: .* answered 403"):
            uploader.send(photo, push.file, push.upload())
    assert push.sent == []


def test_links_are_asked_for_a_hundred_at_a_time(client: Client, tmp_path: Path) -> None:
    """They expire, so those of the last files may not be made with those of the first."""
    for number in range(101):
        (tmp_path / f"{number:03}.txt").write_text(str(number))
    limits: list[int] = []

    def note(request: httpx.Request) -> None:
        if request.url.path == "/v1/uploads":
            limits.append(json.loads(request.content)["limit"])

    client._transport.http.event_hooks["request"] = [note]
    with pytest.raises(WaitTooLongError):  # nothing verifies it here
        push_folder(client, tmp_path, ready_within_s=0)
    assert limits == [100, 100]


@pytest.mark.parametrize(
    ("size_bytes", "sizes"),
    [
        (0, []),
        (WHOLE_BYTES, []),
        (WHOLE_BYTES + 1, [PART_BYTES, PART_BYTES, 1]),
        (3 * PART_BYTES, [PART_BYTES] * 3),
        (100 << 20, [PART_BYTES] * 6 + [4 << 20]),
    ],
)
def test_the_lengths_of_parts(size_bytes: int, sizes: list[int]) -> None:
    assert part_sizes(size_bytes) == sizes
