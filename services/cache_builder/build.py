"""Building one cache shard: download its inputs, encode them in the warm child, store the shard.

The builder holds the shard's row under a lease meanwhile. A shard's name is the digest of its
inputs, so a second builder is harmless, too. The content is stored first and then the manifest,
which only the first builder can write. The row is updated last.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from services.cache_builder.holding import renewed
from services.domain.failures import infra_failure
from services.metrics import work as metrics
from services.objects.errors import (
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
)
from services.objects.keys import upload_key
from services.objects.local_files import sha256_of
from services.objects.port import ObjectStore
from services.objects.shards import put_shard
from services.processes.request_child import ChildLostError, RequestChild, RequestFailedError
from services.store import measured, shards, verification
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.shards import ShardWork
from services.workers.failures import as_of_worker, failure_of_work, is_only_of_worker
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from trainer_core.data.index import Picture
from trainer_core.data.shards import ShardSpec
from trainer_core.errors import Category
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
            content = self._encode(work, spec, inputs, folder)
            try:
                shard = put_shard(self.objects, work.tenant_id, work.digest, work.kind, content)
            except BadHeaderError as error:
                raise _torn() from error
        fault_point("shard.uploaded")
        with self.database.transaction() as conn:
            shards.done(conn, work.tenant_id, work.digest, shard)
            measured.record_encoding(
                conn,
                work.base_model,
                work.kind,
                units=spec.units(),
                took_s=time.monotonic() - started_s,
            )
        metrics.shards.labels(kind=work.kind, outcome="built").inc()
        log.info("shard_built", digest=work.digest, kind=work.kind, size_bytes=shard.size_bytes)

    def _encode(
        self, work: ShardWork, spec: ShardSpec, inputs: dict[str, str], folder: Path
    ) -> Path:
        """The shard's file in ``folder``; raises BuildFailedError."""
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
        if output.stat().st_size != reply.size_bytes:
            raise _torn()
        return output

    def _download_inputs(self, work: ShardWork, folder: Path) -> tuple[ShardSpec, dict[str, str]]:
        """What is built, and SHA-256 of each picture → its path in ``folder``.

        Raises BuildFailedError.
        """
        spec = _spec_of(work)
        inputs: dict[str, str] = {}
        missing: dict[str, Picture] = {}
        for entry in spec.entries:
            if not isinstance(entry, Picture) or entry.sha256 in inputs or entry.sha256 in missing:
                continue
            local = folder / entry.sha256
            try:
                self.objects.get_to(upload_key(work.tenant_id, entry.sha256), local)
            except ObjectMissingError:
                self._forget(work.tenant_id, entry)
                missing[entry.sha256] = entry
                continue
            if sha256_of(local) != entry.sha256:
                self._forget(work.tenant_id, entry)
                message = f"{entry.path} is not the file that was verified: {_PUSH_AGAIN}."
                raise BuildFailedError(infra_failure("input_corrupt", message))
            inputs[entry.sha256] = str(local)
        return (self._without(work, spec, missing) if missing else spec), inputs

    def _without(
        self, work: ShardWork, spec: ShardSpec, missing: Mapping[str, Picture]
    ) -> ShardSpec:
        """The spec without pictures whose dataset is deleted; raises BuildFailedError for others.

        ``missing``: by SHA-256.
        """
        rest = spec.without(missing)
        with self.database.transaction() as conn:
            needed = shards.needed_pictures(conn, work, missing)
            for sha256, picture in missing.items():
                if sha256 in needed or not rest.entries:
                    message = f"{picture.path} is no longer in the object store: {_PUSH_AGAIN}."
                    raise BuildFailedError(infra_failure("input_missing", message))
            left_out = set(spec.digests()) - set(rest.digests())
            shards.leave_out(conn, work, left_out, rest.model_dump(mode="json"))
        log.info("entries_left_out", digest=work.digest, number=len(left_out))
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


def _torn() -> BuildFailedError:
    return BuildFailedError(infra_failure("shard_torn", "The encoded shard is incomplete."))
