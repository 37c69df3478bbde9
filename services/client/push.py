"""A local folder of pictures and captions becomes a dataset."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
from trainer_core.data.folder import CAPTION_SUFFIX, IMAGE_SUFFIXES, FolderFiles, list_files

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


OnProgress = Callable[[PushProgress], None]


def list_folder(folder: Path) -> FolderFiles:
    """The files of a folder; images and captions are pushed, others are not.

    Raises ClientError where there is no such folder.
    """
    if not folder.is_dir():
        raise ClientError(f"there is no folder {folder}")
    return list_files(folder)


def push_folder(
    client: Client,
    folder: Path,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    *,
    ready_within_s: float = _READY_WITHIN_S,
) -> Dataset:
    """Upload the files of a folder that the service lacks; wait until it has verified all of them.

    Args:
        folder: searched with its sub-folders for .jpg, .jpeg, .png, .webp and .txt files.
        name: of the dataset; the folder's own where none is given.
        on_progress: called from this thread.
        ready_within_s: how long the service may take to verify the files.

    Returns:
        The dataset, ``ready``.

    Raises:
        DatasetRejectedError: names every rejected file, with the reason.
        ClientError: an empty folder, a file that changed meanwhile, or a store that refuses.
    """
    report = on_progress or _ignore
    found = list_folder(folder)
    paths = sorted((*found.images, *found.captions), key=PurePosixPath)
    if not paths:
        suffixes = ", ".join(sorted({*IMAGE_SUFFIXES, CAPTION_SUFFIX}))
        raise EmptyFolderError(f"{folder} has no file that ends in {suffixes}")
    files = _describe(folder, paths, report)
    dataset = client.create_dataset(name or folder.resolve().name, files)
    _upload(client, folder, dataset["id"], files, report)
    report(PushProgress(stage="verifying", done=0, total=len(files)))
    client.complete_dataset(dataset["id"])
    return _wait_ready(client, dataset["id"], ready_within_s, report)


def _ignore(_progress: PushProgress) -> None:
    """Used where no progress is wanted."""


def _describe(folder: Path, paths: Sequence[str], report: OnProgress) -> list[NewFile]:
    files: list[NewFile] = []
    for done, path in enumerate(paths, 1):
        with (folder / path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        files.append({"path": path, "size_bytes": size_bytes, "sha256": sha256})
        report(PushProgress(stage="hashing", done=done, total=len(paths)))
    return files


def _upload(
    client: Client, folder: Path, dataset_id: str, files: Sequence[NewFile], report: OnProgress
) -> None:
    """Send each content that the store lacks once, one page of signed requests at a time."""
    sizes = {file["path"]: file["size_bytes"] for file in files}
    sent: set[str] = set()
    done = 0
    # A client of its own: a signed request carries its own right, and must not carry the key.
    with httpx.Client(timeout=_TIMEOUT) as store, ThreadPoolExecutor(_THREADS) as threads:
        for page in _signed_pages(client, dataset_id):
            missing = {u["sha256"]: u for u in page if not u["present"] and u["sha256"] not in sent}
            done += len(page) - len(missing)
            sent |= missing.keys()
            report(PushProgress(stage="uploading", done=done, total=len(files)))
            waiting = [
                threads.submit(_send, store, client.retry, folder, upload, sizes[upload["path"]])
                for upload in missing.values()
            ]
            try:
                for future in as_completed(waiting):
                    future.result()
                    done += 1
                    report(PushProgress(stage="uploading", done=done, total=len(files)))
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


def _wait_ready(client: Client, dataset_id: str, within_s: float, report: OnProgress) -> Dataset:
    end_s = time.monotonic() + within_s
    polls = 0
    while True:
        dataset = client.get_dataset(dataset_id)
        done, total = dataset["verified_files"], dataset["num_files"] or 0
        report(PushProgress(stage="verifying", done=done, total=total))
        if dataset["status"] == "ready":
            return dataset
        if dataset["status"] == "rejected":
            problems = [FieldProblem.of_json(dict(error)) for error in dataset["errors"]]
            raise DatasetRejectedError(dataset_id, problems)
        if time.monotonic() > end_s:
            raise WaitTooLongError(
                f"dataset {dataset_id} is still {dataset['status']} after {within_s:g} s"
            )
        polls += 1
        time.sleep(_POLL.wait_s(polls, None))
