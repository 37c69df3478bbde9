"""A local folder of pictures and captions becomes a dataset."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from services.client.client import Client
from services.client.dataset_shapes import Dataset, NewFile, Upload
from services.client.errors import ClientError, DatasetRejectedError, FieldProblem, WaitTooLongError
from services.client.folder import named_files
from services.client.folder_changes import changes_from, describe, digest_of_files, files_in
from services.client.retry import Retry
from services.client.upload import TIMEOUT, Uploader

_THREADS: Final = 4
_SIGNED_AT_ONCE: Final = 100
"""Signed requests expire after an hour; so many are sent well before, also over a slow line."""
_READY_WITHIN_S: Final = 1800.0
_POLL: Final = Retry(tries=1, first_wait_s=0.2, limit_s=2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PushProgress:
    """How far a push has come."""

    stage: Literal["hashing", "uploading", "importing", "verifying"]
    done: int
    """Files of ``total``; the store may hold some already, which count at once. Rows while the
    service imports them."""
    total: int
    """0 where it is not known."""
    sent_bytes: int = 0
    """Of files that are uploaded now, and of parts of large ones; also what is stored of those from
    an earlier push."""


OnProgress = Callable[[PushProgress], None]


def push_folder(
    client: Client,
    place: Path,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    *,
    based_on: str | None = None,
    ready_within_s: float = _READY_WITHIN_S,
) -> Dataset:
    """Upload the files of a folder that the service lacks; wait until it has verified all of them.

    After an interruption call it again: what is stored, also of a large file, is not sent again.

    Args:
        place: a folder, searched with its sub-folders for images and .txt files; or an adapter file
            (.safetensors), from which runs can start.
        name: of the dataset; the folder's or file's own where none is given, and that of the
            dataset that it is based on.
        on_progress: called from several threads, never from two at once.
        based_on: a dataset that had most of these files: only what differs is sent. Where nothing
            does, it is the answer, and no dataset is made.
        ready_within_s: how long the service may take to verify the files.

    Returns:
        The dataset, ``ready``.

    Raises:
        DatasetRejectedError: names every rejected file, with the reason.
        BadNamesError: names every file whose name cannot be in a dataset.
        ClientError: an empty folder, a file that changed meanwhile, or a store that refuses.
    """
    report = on_progress or _ignore
    base = None if based_on is None else _usable(client.get_dataset(based_on))
    found = named_files(place)
    files = describe(found, lambda done: report(_hashed(done, len(found))))
    if base is None:
        dataset = client.create_dataset(name or place.resolve().name, files)
    elif base["digest"] == digest_of_files(files):
        return wait_ready(client, base["id"], ready_within_s, report)
    else:
        changes = changes_from(files_in(client, base["id"]), files)
        dataset = client.create_dataset(
            name, changes.new_files, based_on=base["id"], removed=changes.removed
        )
    _upload(client, found, dataset["id"], files, report, skip_verified=base is not None)
    report(PushProgress(stage="verifying", done=0, total=len(files)))
    client.complete_dataset(dataset["id"])
    return wait_ready(client, dataset["id"], ready_within_s, report)


def _hashed(done: int, total: int) -> PushProgress:
    return PushProgress(stage="hashing", done=done, total=total)


def _ignore(_progress: PushProgress) -> None:
    """Used where no progress is wanted."""


def _usable(base: Dataset) -> Dataset:
    """The dataset, where others can be based on it; told before a large folder is read."""
    if base["status"] in {"uploading", "rejected"}:
        raise ClientError(
            f"{base['id']} is {base['status']}; a dataset can be based on one that is verifying or "
            "ready. Push the folder without it: files that are stored are not sent again"
        )
    return base


class _Sent:
    """Counts what is stored, and reports it."""

    def __init__(self, total: int, report: OnProgress) -> None:
        self._total = total
        self._report = report
        self._lock = threading.Lock()
        self._done = self._sent_bytes = 0

    def add(self, *, files: int = 0, sent_bytes: int = 0) -> None:
        with self._lock:
            self._done += files
            self._sent_bytes += sent_bytes
            self._report(
                PushProgress(
                    stage="uploading",
                    done=self._done,
                    total=self._total,
                    sent_bytes=self._sent_bytes,
                )
            )


def _upload(
    client: Client,
    found: Mapping[str, Path],
    dataset_id: str,
    files: list[NewFile],
    report: OnProgress,
    *,
    skip_verified: bool,
) -> None:
    """Send each content that the store lacks once, one page of signed requests at a time.

    Args:
        skip_verified: do not ask for what the dataset that this one is based on has verified.
    """
    declared = {file["path"]: file for file in files}
    sent = _Sent(len(files), report)
    seen: set[str] = set()
    num_asked = 0
    with httpx.Client(timeout=TIMEOUT) as store, ThreadPoolExecutor(_THREADS) as threads:
        uploader = Uploader(
            client=client,
            store=store,
            dataset_id=dataset_id,
            note_sent=lambda sent_bytes: sent.add(sent_bytes=sent_bytes),
        )
        after: str | None = None
        while True:
            page = client.sign_uploads(
                dataset_id, after=after, limit=_SIGNED_AT_ONCE, skip_verified=skip_verified
            )
            num_asked += len(page.data)
            missing = _missing(page.data, seen)
            sent.add(files=len(page.data) - len(missing))
            waiting = [
                threads.submit(uploader.send, found[path], declared[path], upload)
                for path, upload in missing.items()
            ]
            try:
                for future in as_completed(waiting):
                    future.result()
                    sent.add(files=1)
            except BaseException:  # also Ctrl-C: what is under way ends soon
                uploader.stopping.set()
                for future in waiting:
                    future.cancel()
                raise
            after = page.next_cursor
            if not page.has_more or after is None:
                sent.add(files=len(files) - num_asked)
                return


def _missing(uploads: list[Upload], seen: set[str]) -> dict[str, Upload]:
    """The uploads by path whose content is neither stored nor in ``seen``, to which it adds it."""
    missing: dict[str, Upload] = {}
    for upload in uploads:
        if not upload["present"] and upload["sha256"] not in seen:
            seen.add(upload["sha256"])
            missing[upload["path"]] = upload
    return missing


def wait_ready(client: Client, dataset_id: str, within_s: float, report: OnProgress) -> Dataset:
    """Wait until the service has verified a dataset, which it may import before.

    Args:
        client: of the service.
        dataset_id: of a dataset whose files are all uploaded, or that is imported.
        within_s: how long that may take.
        report: is told the progress.

    Raises:
        DatasetRejectedError: says why.
        WaitTooLongError: the dataset may become ready later.
    """
    end_s = time.monotonic() + within_s
    polls = 0
    while True:
        dataset = client.get_dataset(dataset_id)
        report(_progress_of(dataset))
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


def _progress_of(dataset: Dataset) -> PushProgress:
    source = dataset.get("source")
    if source is not None and source["status"] == "importing":
        return PushProgress(
            stage="importing",
            done=source["rows_done"],
            total=source["rows_total"] or 0,
            sent_bytes=source["fetched_bytes"],
        )
    return PushProgress(
        stage="verifying", done=dataset["verified_files"], total=dataset["num_files"] or 0
    )
