"""Files of a run become local files: an interrupted download goes on, and every byte is checked."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import httpx

from services.client.call import MAX_PAGE
from services.client.client import Client
from services.client.errors import DownloadFailedError
from services.client.pages import every
from services.client.retry import RETRIED_STATUSES
from services.client.run_output_shapes import File, Preview, Sample
from trainer_core.export.lycoris_layout import CONFIG_NAME
from trainer_core.export.origin import ADAPTER_NAME, LIVE_FOLDER, Weights
from trainer_core.whole_file import draft_of

_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_AS_STORED: Final = {"Accept-Encoding": "identity"}
"""Length, range and digest are those of the stored bytes, so nothing may compress them."""
_EXPIRED: Final = 403


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadProgress:
    """How far a download has come."""

    path: str
    """The file that is coming."""
    done_bytes: int
    """Of all files; what was there already counts at once."""
    total_bytes: int


OnProgress = Callable[[DownloadProgress], None]


def download(
    client: Client, run_id: str, path: str, to: Path, on_progress: OnProgress | None = None
) -> None:
    """Make one artifact of a run a local file; a file that has its content already is left alone.

    What has come is kept beside ``to`` after an interruption, and the next call goes on from there.

    Args:
        path: of the artifact, such as ``result/pytorch_lora_weights.safetensors``.
        to: the file; its folder is made where it is missing.

    Raises:
        DownloadFailedError: there is no such artifact, it cannot be read to its end, or its
            content is not what the service stored.
    """
    folder, _, name = path.partition("/")
    if folder == "checkpoints":
        step, _, name = name.partition("/")
        folder = f"{folder}/{step}"
    found = [file for file in _files(client, run_id, folder) if file["path"] == path]
    if not found:
        raise DownloadFailedError(f"{run_id} has no artifact {path}")
    _fetch_all(client, run_id, [(found[0], to)], on_progress)


def download_folder(
    client: Client, run_id: str, folder: str, to: Path, on_progress: OnProgress | None = None
) -> list[Path]:
    """Make all artifacts below ``folder`` local files below ``to``; as ``download``.

    Args:
        folder: ``result``, or ``checkpoints/step-00000100``.

    Returns the files.
    """
    wanted = [(file, to / _local(file["path"], folder)) for file in _there(client, run_id, folder)]
    return _fetch_all(client, run_id, wanted, on_progress)


def download_adapter(
    client: Client,
    run_id: str,
    folder: str,
    to: Path,
    on_progress: OnProgress | None = None,
    *,
    weights: Weights | None = None,
) -> list[Path]:
    """Make the adapter of a result or a checkpoint a local file below ``to``; as ``download``.

    Of LoKr with LyCORIS' configuration beside it. It is usable by itself, and a fraction of a
    checkpoint.

    Args:
        folder: as for ``download_folder``.
        weights: of a checkpoint: the running mean (EMA) or those of its last step; None: what a
            result of that step would have.

    Returns the files. Raises ValueError for ``weights`` of a result, which has one kind.
    """
    is_result = folder == "result"
    if is_result and weights is not None:
        raise ValueError("weights chooses between the adapters of a checkpoint")
    files = {str(_local(file["path"], folder)): file for file in _there(client, run_id, folder)}
    if ADAPTER_NAME not in files:
        why = (
            "It is of full rank: download it without --adapter"
            if is_result
            else "Full rank has none, and neither have checkpoints of older versions: download the "
            "whole checkpoint, and use `reverie export`"
        )
        raise DownloadFailedError(f"{run_id} has no {ADAPTER_NAME} in {folder}. {why}")
    live = f"{LIVE_FOLDER}/"  # of a run with a running mean
    has_mean = live + ADAPTER_NAME in files
    if weights == "ema" and not has_mean:
        raise DownloadFailedError(
            f"{run_id} has no running mean (EMA) in {folder}: take the live weights"
        )
    chosen = live if weights == "live" and has_mean else ""
    names = [name for name in (ADAPTER_NAME, CONFIG_NAME) if chosen + name in files]
    wanted = [(files[chosen + name], to / name) for name in names]
    return _fetch_all(client, run_id, wanted, on_progress)


def download_preview(client: Client, run_id: str, to: Path) -> Preview:
    """Make the newest preview of the picture that a run is sampling a local file; its facts.

    The file may be of a later step of the sampler than the facts. Raises ProblemError where the run
    samples no picture or makes no previews, DownloadFailedError, and OSError.
    """
    found = client.get_preview(run_id)
    try:
        answer = httpx.get(found["url"], headers=_AS_STORED, timeout=_TIMEOUT)
        answer.raise_for_status()
    except httpx.HTTPError as error:  # its text may hold the signed URL
        why = type(error).__name__
        raise DownloadFailedError(f"the preview of {run_id} cannot be read ({why})") from None
    to.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(to) as draft:
        draft.write_bytes(answer.content)
    return found


def download_samples(
    client: Client,
    run_id: str,
    samples: Sequence[Sample],
    to: Path,
    on_progress: OnProgress | None = None,
) -> list[Path]:
    """Make pictures of a run local files below ``to``, at their ``sample_file``; as ``download``.

    Returns the files.
    """
    wanted = [(_file_of(sample), to / sample_file(sample["path"])) for sample in samples]
    return _fetch_all(client, run_id, wanted, on_progress)


def sample_file(path: str) -> PurePosixPath:
    """Where a picture of this path comes to lie: ``step-000100/….png``, or ``result/….png``."""
    folder = "result/samples"
    if path.startswith(f"{folder}/"):
        return "result" / _local(path, folder)
    return _local(path, "samples")


def _file_of(sample: Sample) -> File:
    return File(
        object="file",
        path=sample["path"],
        size_bytes=sample["size_bytes"],
        sha256=sample["sha256"],
        url=sample["url"],
    )


def _files(client: Client, run_id: str, folder: str) -> Iterator[File]:
    return every(
        lambda after: client.list_artifacts(run_id, folder=folder, limit=MAX_PAGE, after=after)
    )


def _there(client: Client, run_id: str, folder: str) -> list[File]:
    """The files of a folder; raises DownloadFailedError where the run has none."""
    files = list(_files(client, run_id, folder))
    if not files:
        raise DownloadFailedError(
            f"{run_id} has no {folder}, or it is damaged in the object store. `reverie runs show "
            f"{run_id}` lists its checkpoints"
        )
    return files


def _local(path: str, folder: str) -> PurePosixPath:
    """The path below the folder; a service could name a file elsewhere."""
    local = PurePosixPath(path).relative_to(folder)
    if ".." in local.parts:
        raise DownloadFailedError(f"{path} leads out of its folder")
    return local


def _fetch_all(
    client: Client,
    run_id: str,
    wanted: Sequence[tuple[File, Path]],
    on_progress: OnProgress | None,
) -> list[Path]:
    """Returns the files."""
    total_bytes = sum(file["size_bytes"] for file, _ in wanted)
    done_bytes = 0
    # A client of its own: a signed link carries its own right, and must not carry the key.
    with httpx.Client(timeout=_TIMEOUT, headers=_AS_STORED) as store:
        for file, to in wanted:
            before_bytes = done_bytes

            def report(come_bytes: int, file: File = file, before: int = before_bytes) -> None:
                if on_progress is not None:
                    now = DownloadProgress(
                        path=file["path"],
                        done_bytes=before + come_bytes,
                        total_bytes=total_bytes,
                    )
                    on_progress(now)

            to.parent.mkdir(parents=True, exist_ok=True)
            if not _is_there(file, to):
                _Download(client, store, run_id, file=file, to=to, report=report).run()
            done_bytes += file["size_bytes"]
            report(file["size_bytes"])
    return [to for _, to in wanted]


def _is_there(file: File, to: Path) -> bool:
    return (
        to.is_file()
        and to.stat().st_size == file["size_bytes"]
        and _digest_of(to)[0] == file["sha256"]
    )


def _digest_of(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


class _Download:
    """One file on its way, as ``.<name>.<digest>.part`` until it is whole."""

    def __init__(
        self,
        client: Client,
        store: httpx.Client,
        run_id: str,
        *,
        file: File,
        to: Path,
        report: Callable[[int], None],
    ) -> None:
        self._client = client
        self._store = store
        self._run_id = run_id
        self._file = file
        self._url = file["url"]
        self._to = to
        # The name has the content's digest, so that only the same content is gone on with.
        self._part = to.with_name(f".{to.name}.{file['sha256'][:16]}.part")
        self._report = report

    def run(self) -> None:
        """Fetch until the file is whole, check it, and give it its name."""
        retry = self._client.retry
        failed = 0
        while (have := self._size()) < self._file["size_bytes"] or not self._part.exists():
            refusal, retry_after = self._fetch(have)
            if refusal is None:
                continue
            failed = 1 if self._size() > have else failed + 1
            if failed >= retry.tries:
                raise DownloadFailedError(f"{self._file['path']}: {refusal}")
            time.sleep(retry.wait_s(failed, retry_after))
        digest, size_bytes = _digest_of(self._part)
        if (digest, size_bytes) != (self._file["sha256"], self._file["size_bytes"]):
            self._part.unlink()
            raise DownloadFailedError(
                f"{self._file['path']} was damaged on its way, or in the store: try again"
            )
        self._part.replace(self._to)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _fetch(self, have: int) -> tuple[str | None, str | None]:
        """Fetch what is missing; what went wrong, if anything, and when to try again.

        Raises DownloadFailedError where another try cannot help.
        """
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with self._store.stream("GET", self._url, headers=headers) as answer:
                if answer.status_code == httpx.codes.PARTIAL_CONTENT:
                    self._append(answer, have)
                elif answer.is_success:  # the whole file
                    self._append(answer, 0)
                else:
                    return self._refused(answer), answer.headers.get("Retry-After")
        except (httpx.TransportError, httpx.StreamError) as error:
            return f"no answer ({type(error).__name__})", None  # its text may hold the signed URL
        return (None if self._size() >= self._file["size_bytes"] else "it ended too early"), None

    def _append(self, answer: httpx.Response, start_byte: int) -> None:
        with self._part.open("ab") as target:
            target.truncate(start_byte)
            for chunk in answer.iter_raw():  # as it comes, so that a cut loses none of it
                target.write(chunk)
                start_byte += len(chunk)
                if start_byte > self._file["size_bytes"]:
                    break  # the digest will tell
                self._report(start_byte)
            target.flush()
            os.fsync(target.fileno())

    def _refused(self, answer: httpx.Response) -> str:
        status = answer.status_code
        if status == _EXPIRED:
            self._url = self._client.get_artifact(self._run_id, self._file["path"])
        elif status not in RETRIED_STATUSES and status != httpx.codes.INTERNAL_SERVER_ERROR:
            raise DownloadFailedError(f"{self._file['path']}: the store answered {status}")
        return f"the store answered {status}"
