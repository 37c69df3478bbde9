"""Verification of a dataset: each upload matches its declaration and can be decoded.

Every error is collected, so that a tenant can correct all of them at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from services.domain.errors import Problem
from services.metrics.work import verifications
from services.objects.errors import ObjectMissingError, ObjectStoreDownError
from services.objects.keys import upload_key
from services.objects.local_files import sha256_of
from services.objects.port import ObjectStore
from services.processes.request_child import ChildLostError, RequestChild, RequestFailedError
from services.store import datasets
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.datasets import DatasetFile, FileFacts
from services.workers.scratch import Scratch
from trainer_core.data.captions import decode_caption
from trainer_core.errors import BadCaptionError
from trainer_core.process.requests import InspectReply, InspectRequest

log = structlog.get_logger(__name__)

MAX_CAPTION_BYTES: Final = 1 << 20
_LATER_S: Final = 10.0
_FILES_AT_ONCE: Final = 32
_BYTES_AT_ONCE: Final = 256 << 20
"""Limit of a batch on local disk and of one decoder request; one file is always allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """Handles ``datasets.verify``."""

    database: Database
    objects: ObjectStore
    inspector: RequestChild
    """Runs ``trainer_core inspect``: untrusted images are decoded in a separate process."""
    scratch: Scratch

    def answer_ring(self, tenant_id: str, dataset_id: str) -> None:
        """Verify the dataset if it waits for that.

        Where the database or the object store cannot be reached, the dataset stays due.
        """
        try:
            with self.database.transaction() as conn:
                dataset = datasets.to_verify(conn, tenant_id, dataset_id)
            if dataset is not None:
                self._verify(tenant_id, dataset_id)
        except TRANSIENT_ERRORS as error:
            log.warning("verification_postponed", dataset_id=dataset_id, error=type(error).__name__)

    def _verify(self, tenant_id: str, dataset_id: str) -> None:
        with self.database.transaction() as conn:
            files = datasets.files(conn, tenant_id, dataset_id)
        try:
            facts, errors = self._check_all(tenant_id, files)
        except (ObjectStoreDownError, ChildLostError, RequestFailedError) as error:
            verifications.labels(outcome="postponed").inc()
            log.warning("verification_postponed", dataset_id=dataset_id, error=type(error).__name__)
            with self.database.transaction() as conn:
                datasets.verify_later(conn, tenant_id, dataset_id, after_s=_LATER_S)
            return
        with self.database.transaction() as conn:
            if errors:
                datasets.reject(conn, tenant_id, dataset_id, errors)
            else:
                datasets.record_verified(conn, tenant_id, dataset_id, facts)
        verifications.labels(outcome="verified").inc()
        log.info("dataset_verified", dataset_id=dataset_id, files=len(files), errors=len(errors))

    def _check_all(
        self, tenant_id: str, files: Sequence[DatasetFile]
    ) -> tuple[list[FileFacts], list[Problem]]:
        errors: list[Problem] = []
        facts: list[FileFacts] = []
        for batch in _batches(files):
            with self.scratch.work_folder("verify") as folder:
                found, wrong = self._check(tenant_id, batch, folder)
                facts += found
                errors += wrong
        return facts, errors

    def _check(
        self, tenant_id: str, batch: Sequence[DatasetFile], folder: Path
    ) -> tuple[list[FileFacts], list[Problem]]:
        facts: list[FileFacts] = []
        errors: list[Problem] = []
        images: dict[str, Path] = {}
        for number, file in enumerate(batch):
            local = folder / str(number)
            if problem := self._download(tenant_id, file, local):
                errors.append(problem)
            elif file.media == "image":
                images[file.path] = local
            else:
                try:
                    text = decode_caption(local.read_bytes(), name=file.path)
                except BadCaptionError as error:
                    errors.append(Problem(pointer=file.path, code=error.code, message=str(error)))
                else:
                    facts.append(FileFacts(path=file.path, text=text))
        found, wrong = self._inspect(images)
        return facts + found, errors + wrong

    def _download(self, tenant_id: str, file: DatasetFile, local: Path) -> Problem | None:
        """Download one upload and check it; the problem with it, or None.

        The size is checked first, so that nothing huge is downloaded.
        """
        key = upload_key(tenant_id, file.sha256)
        if file.media == "caption" and file.size_bytes > MAX_CAPTION_BYTES:
            return _problem(file.path, "bad_caption", f"is longer than {MAX_CAPTION_BYTES} bytes")
        size_bytes = self.objects.size(key)
        if size_bytes is None:
            return _problem(file.path, "not_uploaded", "was not uploaded")
        if size_bytes != file.size_bytes:
            wrong = f"has {size_bytes} bytes, {file.size_bytes} were declared"
            return _problem(file.path, "size_mismatch", wrong)
        try:
            self.objects.get_to(key, local)
        except ObjectMissingError:
            return _problem(file.path, "not_uploaded", "was not uploaded")
        if sha256_of(local) != file.sha256:
            return _problem(file.path, "sha256_mismatch", "is not the file that was declared")
        return None

    def _inspect(self, images: dict[str, Path]) -> tuple[list[FileFacts], list[Problem]]:
        if not images:
            return [], []
        request = InspectRequest(inputs={path: str(local) for path, local in images.items()})
        try:
            reply = self.inspector.request(request, InspectReply)
        except ChildLostError:
            return self._inspect_one_by_one(images)
        facts = [
            FileFacts(path=path, width_px=fact.width_px, height_px=fact.height_px)
            for path, fact in reply.facts.items()
        ]
        return facts, [
            Problem(pointer=e.path, code=e.code, message=e.message) for e in reply.errors
        ]

    def _inspect_one_by_one(self, images: dict[str, Path]) -> tuple[list[FileFacts], list[Problem]]:
        """Find the picture that crashed the decoder, so that only this one is rejected.

        Raises ChildLostError where the decoder cannot start at all.
        """
        self.inspector.request(InspectRequest(inputs={}), InspectReply)
        if len(images) == 1:
            (path,) = images
            wrong = "cannot be decoded within the limits on time and memory"
            return [], [_problem(path, "bad_image", wrong)]
        facts: list[FileFacts] = []
        errors: list[Problem] = []
        for path, local in images.items():
            found, wrong_ones = self._inspect({path: local})
            facts += found
            errors += wrong_ones
        return facts, errors


def _batches(files: Sequence[DatasetFile]) -> Iterator[list[DatasetFile]]:
    batch: list[DatasetFile] = []
    room_bytes = _BYTES_AT_ONCE
    for file in files:
        if batch and (len(batch) == _FILES_AT_ONCE or file.size_bytes > room_bytes):
            yield batch
            batch, room_bytes = [], _BYTES_AT_ONCE
        batch.append(file)
        room_bytes -= file.size_bytes
    if batch:
        yield batch


def _problem(path: str, code: str, wrong: str) -> Problem:
    return Problem(pointer=path, code=code, message=f"{path} {wrong}.")
