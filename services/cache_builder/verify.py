"""Verification of a dataset: each upload matches its declaration and can be decoded.

A ring verifies files for about two seconds, so that datasets of other tenants get their turn. A
picture or a caption that cannot be read is left out. Problems, such as a file that was not
uploaded, are collected, so that a tenant can correct many of them at once. What the tenant has had
verified before, in this dataset or in another one, is not looked at again.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from services.cache_builder.downloads import download_upload
from services.cache_builder.holding import renewed
from services.domain.errors import Problem
from services.metrics.work import verifications
from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
)
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.processes.request_child import ChildLostError, RequestChild, RequestFailedError
from services.store import verification
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.datasets import DatasetFile, FileFacts
from services.store.verification import DECODING_LIMIT, NextFile, Verification
from services.workers.failures import as_of_worker, failure_of_work
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from trainer_core.data.captions import MAX_CAPTION_BYTES, decode_caption
from trainer_core.errors import AdapterFileError, BadCaptionError
from trainer_core.export.start_file import check_upload
from trainer_core.faultpoints import fault_point
from trainer_core.process.requests import InspectReply, InspectRequest

log = structlog.get_logger(__name__)

RULES: Final = 3
"""The number of the rules in here: which files are good, and what is noted of them. Raise it with
every change of them (formats, limits, what a caption may be), so that what was verified by other
rules is verified again when a new dataset lists it."""
_LATER: Final = timedelta(seconds=10)
_FILES_AT_ONCE: Final = 32
_KNOWN_AT_ONCE: Final = 1024
"""Files of a batch that were verified before."""
_BYTES_AT_ONCE: Final = 16 << 20
"""Limit of a batch, which is recorded at once; one file is always allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """Handles ``datasets.verify``."""

    database: Database
    objects: ObjectStore
    inspector: RequestChild
    """Runs ``trainer_core inspect``: untrusted images are decoded in a separate process."""
    scratch: Scratch
    health: WorkerHealth
    slice_s: float = 2.0
    """A ring verifies batches for this long, and at least one."""
    rules: int = RULES

    def answer_ring(self, tenant_id: str, dataset_id: str) -> None:
        """Verify some files of the dataset, if it waits for that and no other builder does it.

        Where files are left, the dataset is due again at once, behind others. Where the database or
        the object store cannot be reached, it stays due.
        """
        try:
            with self.database.transaction() as conn:
                work = verification.take(conn, tenant_id, dataset_id)
            if work is None:
                return
            with renewed(self.database, partial(verification.renew, work=work)):
                self._verify_a_slice(work)
        except TRANSIENT_ERRORS as error:
            log.warning("verification_postponed", dataset_id=dataset_id, error=type(error).__name__)

    def _verify_a_slice(self, work: Verification) -> None:
        ends_s = time.monotonic() + self.slice_s
        try:
            while batch := self._next_batch(work):
                if work.has_too_many_problems:
                    break
                advanced = self._verify(work, batch)
                self.health.note_success()
                if advanced is None:
                    return  # another builder is ahead
                work = advanced
                if time.monotonic() >= ends_s:
                    with self.database.transaction() as conn:
                        verification.put_back(conn, work)
                    verifications.labels(outcome="verified").inc()
                    return
            with self.database.transaction() as conn:
                status = verification.finish(conn, work)
        except TRANSIENT_ERRORS:
            raise
        except ChildLostError as error:  # this machine cannot decode
            self._postpone(work, error)
        except RequestFailedError as error:  # so did the decoder, because of this machine
            self.health.note_failure(as_of_worker(error.failure))
            self._postpone(work, error)
        except (ObjectStoreDownError, ObjectStoreRefusedError, OSError) as error:
            # The store fails, or this machine: it is not the dataset's fault.
            self.health.note_failure(failure_of_work(error))
            self._postpone(work, error)
        except Exception:  # one bad dataset must end with a reason, not be tried for ever
            verifications.labels(outcome="failed").inc()
            log.exception("verification_failed_unexpectedly", dataset_id=work.dataset_id)
            with self.database.transaction() as conn:
                verification.count_failure(conn, work)
        else:
            verifications.labels(outcome="verified").inc()
            log.info(
                "dataset_verified",
                dataset_id=work.dataset_id,
                status=status,
                files=work.verified_files,
                left_out=work.num_left_out,
                errors=work.num_problems,
            )

    def _postpone(self, work: Verification, error: Exception) -> None:
        verifications.labels(outcome="postponed").inc()
        log.warning(
            "verification_postponed", dataset_id=work.dataset_id, error=type(error).__name__
        )
        with self.database.transaction() as conn:
            verification.postpone(conn, work, after=_LATER)

    def _next_batch(self, work: Verification) -> list[NextFile]:
        with (
            self.database.transaction() as conn,
            closing(verification.next_files(conn, work, rules=self.rules)) as files,
        ):
            return _batch_of(files)

    def _verify(self, work: Verification, batch: Sequence[NextFile]) -> Verification | None:
        """Check a batch and record it; None where another builder has recorded it."""
        unknown = [file for file in batch if file.known_from is None]
        with self.scratch.work_folder("verify") as folder:
            try:
                found = self._check(work.tenant_id, unknown, folder)
            except ChildLostError:
                if len(unknown) > 1:
                    return self._verify_one_by_one(work, batch)
                # Raises ChildLostError where the decoder cannot start at all.
                self.inspector.request(InspectRequest(inputs={}), InspectReply)
                found = self._too_slow(work, unknown[0])
        fault_point("verify.checked")
        with self.database.transaction() as conn:
            return verification.record(
                conn,
                work,
                batch,
                found.facts,
                found.problems,
                rules=self.rules,
                left_out=found.left_out,
            )

    def _too_slow(self, work: Verification, file: NextFile) -> "_Found":
        """A picture that ended the decoder is left out, unless there are too many such ones."""
        wrong = "cannot be decoded within the limits on time and memory; save it anew, or smaller"
        problem = _problem(file.path, DECODING_LIMIT, wrong)
        with self.database.transaction() as conn:
            is_left_out = verification.has_room_for_slow(conn, work)
        return _Found(left_out=[problem]) if is_left_out else _Found(problems=[problem])

    def _verify_one_by_one(
        self, work: Verification, batch: Sequence[NextFile]
    ) -> Verification | None:
        """Find the picture that crashed the decoder, so that only this one is left out."""
        advanced: Verification | None = work
        left = list(batch)
        while left and advanced is not None:
            unknown = next((n for n, file in enumerate(left) if file.known_from is None), len(left))
            advanced = self._verify(advanced, left[: unknown + 1])
            left = left[unknown + 1 :]
        return advanced

    def _check(self, tenant_id: str, batch: Sequence[DatasetFile], folder: Path) -> "_Found":
        found = _Found()
        images: dict[str, Path] = {}
        for number, file in enumerate(batch):
            local = folder / str(number)
            if file.media == "caption" and file.size_bytes > MAX_CAPTION_BYTES:
                wrong = f"is longer than {MAX_CAPTION_BYTES} bytes"
                found.left_out.append(_problem(file.path, BadCaptionError.code, wrong))
                continue
            if problem := self._download(tenant_id, file, local):
                found.problems.append(problem)
                continue
            try:
                match file.media:
                    case "image":
                        images[file.path] = local
                    case "caption":
                        text = decode_caption(local.read_bytes(), name=file.path)
                        found.facts.append(FileFacts(path=file.path, text=text))
                    case "adapter":
                        check_upload(local, file.path)
                        found.facts.append(FileFacts(path=file.path))
            except BadCaptionError as error:
                found.left_out.append(
                    Problem(pointer=file.path, code=error.code, message=str(error))
                )
            except AdapterFileError as error:  # a run that names it has nothing to start from
                found.problems.append(
                    Problem(pointer=file.path, code=error.code, message=str(error))
                )
        self._inspect(images, found)
        return found

    def _download(self, tenant_id: str, file: DatasetFile, local: Path) -> Problem | None:
        """Download one upload and check it; the problem with it, or None.

        The size is checked first, so that nothing huge is downloaded.
        """
        key = upload_key(tenant_id, file.sha256)
        size_bytes = self.objects.size(key)
        if size_bytes is None:
            return _problem(file.path, "not_uploaded", "was not uploaded")
        if size_bytes != file.size_bytes:
            wrong = f"has {size_bytes} bytes, {file.size_bytes} were declared"
            return _problem(file.path, "size_mismatch", wrong)
        try:
            if download_upload(self.objects, tenant_id, file.sha256, local):
                return None
        except ObjectMissingError:
            return _problem(file.path, "not_uploaded", "was not uploaded")
        self.objects.delete(key)  # what is stored already is not uploaded again
        wrong = "is not the file that was declared: create the dataset again and upload it"
        return _problem(file.path, "sha256_mismatch", wrong)

    def _inspect(self, images: dict[str, Path], found: "_Found") -> None:
        if not images:
            return
        request = InspectRequest(inputs={path: str(local) for path, local in images.items()})
        reply = self.inspector.request(request, InspectReply)
        found.facts.extend(
            FileFacts(path=path, width_px=fact.width_px, height_px=fact.height_px, lit=fact.lit)
            for path, fact in reply.facts.items()
        )
        found.left_out.extend(
            Problem(pointer=e.path, code=e.code, message=e.message) for e in reply.errors
        )


@dataclass(kw_only=True, slots=True)
class _Found:
    """What a batch showed of the files that had to be verified."""

    facts: list[FileFacts] = field(default_factory=list)
    """Of the good ones."""
    left_out: list[Problem] = field(default_factory=list)
    """Why others cannot be used."""
    problems: list[Problem] = field(default_factory=list)
    """Why the dataset is rejected."""


def _batch_of(files: Iterator[NextFile]) -> list[NextFile]:
    """As many of the first files as the limits allow, and at least one."""
    batch: list[NextFile] = []
    num_unknown = num_bytes = 0
    for file in files:
        # What is downloaded, and the texts of captions, which are held in memory.
        if file.known_from is None or file.text is not None:
            num_bytes += file.size_bytes
        num_unknown += file.known_from is None
        if batch and (num_bytes > _BYTES_AT_ONCE or num_unknown > _FILES_AT_ONCE):
            break
        batch.append(file)
        if len(batch) == _KNOWN_AT_ONCE or num_unknown == _FILES_AT_ONCE:
            break
    return batch


def _problem(path: str, code: str, wrong: str) -> Problem:
    return Problem(pointer=path, code=code, message=f"{path} {wrong}.")
