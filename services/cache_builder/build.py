"""Building one cache shard: download its inputs, encode them in the warm child, store the shard.

The builder holds the shard's row under a lease meanwhile. A shard's name is the digest of its
inputs, so a second builder is harmless, too. The content is stored first and then the manifest,
which only the first builder can write. The row is updated last.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from services.cache_builder.downloads import download_upload
from services.cache_builder.holding import renewed
from services.domain.failures import infra_failure
from services.metrics import work as metrics
from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
)
from services.objects.port import ObjectStore
from services.objects.shards import delete_shard, put_shard
from services.processes.request_child import ChildLostError, RequestChild, RequestFailedError
from services.store import admission, measured, shards, unusable_entries, verification
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.shards import ShardWork
from services.workers.failures import as_of_worker, failure_of_work, is_only_of_worker
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from trainer_core.data.index import Picture
from trainer_core.data.shards import ShardSpec
from trainer_core.errors import BadImageError, Category
from trainer_core.faultpoints import fault_point
from trainer_core.process.failure import Failure
from trainer_core.process.requests import EncodeReply, EncodeRequest
from trainer_core.weights.entries import BadHeaderError

log = structlog.get_logger(__name__)

_LATER: Final = timedelta(seconds=10)
_ENDS_ENCODER: Final = frozenset({"gpu_failed", "gpu_memory_taken"})
"""After an error of the GPU its process can use it no more. Where others hold the memory, the check
of the GPU would count what the encoder holds as theirs."""
_PUSH_AGAIN: Final = "create the dataset again and upload its files"


class BuildFailedError(Exception):
    """The shard was not built; ``failure`` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Builder:
    """Handles ``cache.build``."""

    database: Database
    objects: ObjectStore
    encoder: RequestChild
    """Runs ``trainer_core encode``; its models stay loaded from shard to shard."""
    scratch: Scratch
    health: WorkerHealth

    def answer_ring(self, tenant_id: str, digest: str) -> None:
        """Build the shard if it is missing and no other builder builds it.

        Where the database or the object store cannot be reached, the shard stays due and the
        dispatcher rings again later.
        """
        try:
            with self.database.transaction() as conn:
                work = shards.take(conn, tenant_id, digest)
            if work is None:
                return
            with (
                metrics.shard_seconds.labels(kind=work.kind).time(),
                renewed(self.database, partial(shards.renew, work=work)),
            ):
                self._build_or_say_why_not(work)
        except TRANSIENT_ERRORS as error:
            log.warning("build_postponed", digest=digest, error=type(error).__name__)

    def _build_or_say_why_not(self, work: ShardWork) -> None:
        try:
            self._build(work)
        except BuildFailedError as error:
            self.health.note_failure(error.failure)
            if is_only_of_worker(error.failure):
                self._postpone(work, error.failure)
            else:
                self._record_failure(work, error.failure)
        except (ObjectStoreDownError, ObjectStoreRefusedError, OSError) as error:
            # The store fails, or this machine: it is not the shard's fault.
            failure = failure_of_work(error)
            self.health.note_failure(failure)
            self._postpone(work, failure)
        except TRANSIENT_ERRORS:
            raise
        except Exception:  # one bad shard must end with a reason, not be tried for ever
            log.exception("build_failed_unexpectedly", digest=work.digest)
            message = f"Building the cache shard of {work.shown} failed unexpectedly."
            self._record_failure(work, infra_failure("build_failed", message))
        else:
            self.health.note_success()

    def _build(self, work: ShardWork) -> None:
        started_s = time.monotonic()
        with self.scratch.work_folder("build") as folder:
            spec, inputs = self._download_inputs(work, folder)
            content, unusable = self._encode(work, spec, inputs, folder)
            if unusable:
                spec = self._without_unusable(work, spec, unusable)
            try:
                shard = put_shard(self.objects, work.tenant_id, work.digest, work.kind, content)
            except BadHeaderError as error:
                raise _torn() from error
        fault_point("shard.uploaded")
        with self.database.transaction() as conn:
            is_recorded = shards.done(conn, work.tenant_id, work.digest, shard)
            measured.record_encoding(
                conn,
                work.base_model,
                work.kind,
                units=spec.units(),
                took_s=time.monotonic() - started_s,
            )
        if not is_recorded:  # this builder was slow, and the last run with it is deleted
            delete_shard(self.objects, work.tenant_id, shard)
            log.warning("shard_not_needed", digest=work.digest)
            return
        metrics.shards.labels(kind=work.kind, outcome="built").inc()
        log.info("shard_built", digest=work.digest, kind=work.kind, size_bytes=shard.size_bytes)

    def _encode(
        self, work: ShardWork, spec: ShardSpec, inputs: dict[str, str], folder: Path
    ) -> tuple[Path, dict[str, str]]:
        """The shard's file in ``folder``, and the entries that it lacks with the reasons.

        There is no file where it lacks all. Raises BuildFailedError.
        """
        output = folder / "shard.safetensors"
        request = EncodeRequest(
            base_model=work.base_model,
            spec=spec,
            inputs=inputs,
            output=str(output),
        )
        try:
            reply = self.encoder.request(request, EncodeReply)
        except RequestFailedError as error:
            if error.failure.code in _ENDS_ENCODER:
                self.encoder.end()
            raise BuildFailedError(as_of_worker(error.failure)) from error
        except ChildLostError as error:
            message = f"The encoder failed on the cache shard of {work.shown}: {error}."
            raise BuildFailedError(infra_failure("encoder_died", message)) from error
        if reply.size_bytes and output.stat().st_size != reply.size_bytes:
            raise _torn()
        return output, reply.unusable

    def _download_inputs(self, work: ShardWork, folder: Path) -> tuple[ShardSpec, dict[str, str]]:
        """What is built, and SHA-256 of each picture → its path in ``folder``.

        Raises BuildFailedError.
        """
        spec = _spec_of(work)
        if not spec.entries:  # a builder died after it had found that
            raise _all_unusable(work)
        inputs: dict[str, str] = {}
        lost: dict[str, Failure] = {}
        for digest, entry in zip(spec.digests(), spec.entries, strict=True):
            if not isinstance(entry, Picture) or entry.sha256 in inputs:
                continue
            local = folder / entry.sha256
            if (failure := self._download(work.tenant_id, entry, local)) is not None:
                lost[digest] = failure
            else:
                inputs[entry.sha256] = str(local)
        return (self._without_lost(work, spec, lost) if lost else spec), inputs

    def _download(self, tenant_id: str, entry: Picture, local: Path) -> Failure | None:
        """Download a picture; the failure of runs that need it where it is lost or damaged."""
        try:
            if download_upload(self.objects, tenant_id, entry.sha256, local):
                return None
            code, wrong = "input_corrupt", "is not the file that was verified"
        except ObjectMissingError:
            code, wrong = "input_missing", "is no longer in the object store"
        self._forget(tenant_id, entry)
        failure = infra_failure(code, f"{entry.path} {wrong}: {_PUSH_AGAIN}.")
        return replace(failure, retryable=False)

    def _without_lost(
        self, work: ShardWork, spec: ShardSpec, lost: Mapping[str, Failure]
    ) -> ShardSpec:
        """The spec without entries whose pictures are lost, which fails the runs that need them.

        No run does where a dataset is deleted. Raises BuildFailedError where no entry is left.
        """
        rest = spec.without(lost)
        if not rest.entries:
            raise BuildFailedError(next(iter(lost.values())))
        with self.database.transaction() as conn:
            if not shards.leave_out(conn, work, lost, rest.model_dump(mode="json")):
                return rest
            for digest, failure in lost.items():
                admission.fail_needing(conn, work.tenant_id, work.digest, [digest], failure)
        for failure in lost.values():
            metrics.shards.labels(kind=work.kind, outcome=failure.code).inc()
        log.warning("entries_left_out", digest=work.digest, number=len(lost))
        return rest

    def _without_unusable(
        self, work: ShardWork, spec: ShardSpec, unusable: Mapping[str, str]
    ) -> ShardSpec:
        """The spec without images that cannot be used; runs that wait for them are indexed again.

        Their indexes then leave the images out. Raises BuildFailedError where no entry is left.
        """
        rest = spec.without(unusable)
        with self.database.transaction() as conn:
            unusable_entries.record(conn, work.tenant_id, unusable)
            if shards.leave_out(conn, work, unusable, rest.model_dump(mode="json")):
                admission.readmit_needing(conn, work.tenant_id, work.digest, unusable)
        log.warning("entries_left_out", digest=work.digest, number=len(unusable))
        if not rest.entries:
            raise _all_unusable(work)
        return rest

    def _forget(self, tenant_id: str, entry: Picture) -> None:
        """What is uploaded in its place is verified like a new file."""
        with self.database.transaction() as conn:
            verification.forget(conn, tenant_id, entry.sha256)

    def _postpone(self, work: ShardWork, failure: Failure) -> None:
        """Try the shard later, perhaps on another machine; this is not counted as a try."""
        metrics.shards.labels(kind=work.kind, outcome=failure.code).inc()
        log.warning("build_postponed", digest=work.digest, code=failure.code)
        with self.database.transaction() as conn:
            shards.retry_later(conn, work, after=_LATER)

    def _record_failure(self, work: ShardWork, failure: Failure) -> None:
        metrics.shards.labels(kind=work.kind, outcome=failure.code).inc()
        log.warning(
            "shard_not_built", digest=work.digest, code=failure.code, reason=failure.message
        )
        with self.database.transaction() as conn:
            shards.failed(conn, work, failure)


def _spec_of(work: ShardWork) -> ShardSpec:
    """What the shard holds; raises BuildFailedError for a shard of another version.

    Such a run is indexed again, and then needs other shards.
    """
    try:
        return ShardSpec.model_validate(work.spec)
    except ValidationError as error:
        message = "Another version of the service asked for this cache shard."
        raise BuildFailedError(
            Failure(
                code="shard_of_other_version",
                category=Category.PLATFORM,
                message=message,
                retryable=False,
            )
        ) from error


def _all_unusable(work: ShardWork) -> BuildFailedError:
    """No run waits for it any more."""
    message = f"No image of the cache shard of {work.shown} can be used."
    return BuildFailedError(
        Failure(code=BadImageError.code, category=Category.USER, message=message, retryable=False)
    )


def _torn() -> BuildFailedError:
    return BuildFailedError(infra_failure("shard_torn", "The encoded shard is incomplete."))
