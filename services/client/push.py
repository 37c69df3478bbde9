"""A local folder of pictures and captions becomes a dataset."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from services.client.client import Client
from services.client.errors import (
    ClientError,
    DatasetRejectedError,
    EmptyFolderError,
    FieldProblem,
    FileChangedError,
    UploadFailedError,
    WaitTooLongError,
)
from services.client.retry import RETRIED_STATUSES, Retry
from services.client.shapes import Dataset, NewFile, Upload

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".txt"})
_THREADS: Final = 4
_TIMEOUT: Final = httpx.Timeout(120.0, connect=10.0)
_READY_WITHIN_S: Final = 1800.0
_POLL: Final = Retry(tries=1, first_wait_s=0.2, limit_s=2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PushProgress:
    """How far a push has come."""

    stage: Literal["hashing", "uploading", "verifying"]
    done: int
    """Files of ``total``; the store may hold some already, which count at once."""
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFiles:
    """What lies in a folder, as sorted paths relative to it."""

    taken: tuple[Path, ...]
    passed_over: tuple[Path, ...]
    """Neither pictures nor captions. Hidden files are not even named here."""


OnProgress = Callable[[PushProgress], None]


def list_folder(folder: Path) -> FolderFiles:
    """Sort the files of a folder and its sub-folders into those that are pushed and the rest."""
    if not folder.is_dir():
        raise ClientError(f"there is no folder {folder}")
    found = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not _is_hidden(path.relative_to(folder))
    )
    return FolderFiles(
        taken=tuple(path for path in found if path.suffix.lower() in SUFFIXES),
        passed_over=tuple(path for path in found if path.suffix.lower() not in SUFFIXES),
    )


def push_folder(
    client: Client,
    folder: Path,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    *,
    ready_within_s: float = _READY_WITHIN_S,
) -> Dataset:
    """Upload what the service lacks of a folder and wait until it has looked into every file.

    Args:
        folder: searched with its sub-folders for .jpg, .jpeg, .png, .webp and .txt files.
        name: of the dataset; the folder's own where none is given.
        on_progress: called from this thread.
        ready_within_s: patience with the service's look into the files.

    Returns:
        The dataset, ``ready``.

    Raises:
        DatasetRejectedError: names every file that is not taken, with the reason.
        ClientError: an empty folder, a file that changed meanwhile, or a store that refuses.
    """
    tell = on_progress or _be_silent
    paths = list_folder(folder).taken
    if not paths:
        raise EmptyFolderError(f"{folder} has no file that ends in {', '.join(sorted(SUFFIXES))}")
    files = _describe(folder, paths, tell)
    dataset = client.create_dataset(name or folder.resolve().name, files)
    _upload(client, folder, dataset["id"], files, tell)
    tell(PushProgress(stage="verifying", done=0, total=len(files)))
    client.complete_dataset(dataset["id"])
    ready = _wait_ready(client, dataset["id"], ready_within_s)
    tell(PushProgress(stage="verifying", done=len(files), total=len(files)))
    return ready


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _be_silent(_progress: PushProgress) -> None:
    """Nobody asked to hear."""


def _describe(folder: Path, paths: Sequence[Path], tell: OnProgress) -> list[NewFile]:
    files: list[NewFile] = []
    for done, path in enumerate(paths, 1):
        with (folder / path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        files.append({"path": path.as_posix(), "size_bytes": size_bytes, "sha256": sha256})
        tell(PushProgress(stage="hashing", done=done, total=len(paths)))
    return files


def _upload(
    client: Client, folder: Path, dataset_id: str, files: Sequence[NewFile], tell: OnProgress
) -> None:
    """Send every content that the store lacks, once each, a page of signed requests at a time."""
    sizes = {file["path"]: file["size_bytes"] for file in files}
    sent: set[str] = set()
    done = 0
    # A client of its own: a signed request carries its own right, and must not carry the key.
    with httpx.Client(timeout=_TIMEOUT) as store, ThreadPoolExecutor(_THREADS) as threads:
        for page in _signed_pages(client, dataset_id):
            lacking = {u["sha256"]: u for u in page if not u["present"] and u["sha256"] not in sent}
            done += len(page) - len(lacking)
            sent |= lacking.keys()
            tell(PushProgress(stage="uploading", done=done, total=len(files)))
            waiting = [
                threads.submit(_send, store, client.retry, folder, upload, sizes[upload["path"]])
                for upload in lacking.values()
            ]
            try:
                for future in as_completed(waiting):
                    future.result()
                    done += 1
                    tell(PushProgress(stage="uploading", done=done, total=len(files)))
            finally:
                for future in waiting:
                    future.cancel()


def _signed_pages(client: Client, dataset_id: str) -> Iterator[list[Upload]]:
    after: str | None = None
    while True:
        page = client.sign_uploads(dataset_id, after=after)
        yield page["data"]
        after = page["next_cursor"]
        if not page["has_more"] or after is None:
            return


def _send(store: httpx.Client, retry: Retry, folder: Path, upload: Upload, size_bytes: int) -> None:
    """Send one file with exactly the signed headers; a PUT of the same content is repeatable."""
    path = folder / upload["path"]
    body = path.read_bytes()
    if len(body) != size_bytes or hashlib.sha256(body).hexdigest() != upload["sha256"]:
        raise FileChangedError(path)
    method, url = upload["method"], upload["url"]
    if method is None or url is None:
        raise UploadFailedError(f"{upload['path']}: the service gave no address to send it to")
    for failed in range(1, retry.tries + 1):
        retry_after = None
        try:
            answer = store.request(method, url, headers=upload["headers"], content=body)
        except httpx.TransportError as error:
            reason = type(error).__name__  # its text may hold the signed URL
            if failed == retry.tries:
                raise UploadFailedError(f"{upload['path']}: no answer ({reason})") from None
        else:
            if answer.is_success:
                return
            if failed == retry.tries or not _may_pass(answer.status_code):
                raise UploadFailedError(
                    f"{upload['path']}: the object store answered {answer.status_code}"
                )
            retry_after = answer.headers.get("Retry-After")
        time.sleep(retry.wait_s(failed, retry_after))


def _may_pass(status: int) -> bool:
    """Object stores answer 500 to what works a moment later. Source: S3's error responses."""
    return status in RETRIED_STATUSES or status == 500


def _wait_ready(client: Client, dataset_id: str, within_s: float) -> Dataset:
    end_s = time.monotonic() + within_s
    asked = 0
    while True:
        dataset = client.get_dataset(dataset_id)
        if dataset["status"] == "ready":
            return dataset
        if dataset["status"] == "rejected":
            problems = [FieldProblem.of_json(dict(error)) for error in dataset["errors"]]
            raise DatasetRejectedError(dataset_id, problems)
        if time.monotonic() > end_s:
            raise WaitTooLongError(
                f"dataset {dataset_id} is still {dataset['status']} after {within_s:g} s"
            )
        asked += 1
        time.sleep(_POLL.wait_s(asked, None))
