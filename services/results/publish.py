"""Publish a result or a checkpoint: claim the row, fetch, lay out, send, record the outcome.

A publication has retries of its own and never touches its run.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from services.domain.errors import LeaseLostError
from services.domain.failures import backoff
from services.metrics.work import publications as tries
from services.objects.errors import ObjectStoreError
from services.objects.folders import get_folder
from services.objects.port import ObjectStore
from services.results.card_pictures import CardPictures, card_pictures
from services.results.layout import keep_apart, lay_out, lay_out_checkpoint
from services.results.targets.port import (
    PublicationError,
    PublicationRefusedError,
    PublicationRepo,
    PublicationTarget,
    Published,
)
from services.results.targets.tenant_hub import TenantHubTarget
from services.store import checkpoint_retention, publications, run_documents, run_samples
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.publications import PublicationWork
from services.traces.spans import span
from services.workers.documents import UnreadableDocumentError, read_plan
from services.workers.scratch import Scratch
from trainer_core.checkpoint.layout import checkpoint_name
from trainer_core.errors import Category, CheckpointError
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

FIRST_RETRY: Final = timedelta(seconds=5)
LONGEST_RETRY: Final = timedelta(hours=1)
MAX_ATTEMPTS: Final = 24
"""About 15 hours in all, so that a publication survives a night's outage of the Hub."""


class Publisher:
    """Handles rings for publications."""

    def __init__(
        self,
        *,
        database: Database,
        objects: ObjectStore,
        targets: Mapping[str, PublicationTarget],
        scratch: Scratch,
        lease: timedelta,
    ) -> None:
        """``targets``: by kind (``folder``, ``hub``). ``lease``: covers one try; not renewed."""
        self._database = database
        self._objects = objects
        self._targets = targets
        self._scratch = scratch
        self._lease = lease

    def answer_ring(self, tenant_id: str, publication_id: str) -> None:
        """Publish it if it is due; a superfluous ring changes nothing.

        Raises DatabaseDownError: then the row stays due and the dispatcher rings again.
        """
        with structlog.contextvars.bound_contextvars(
            tenant_id=tenant_id, publication_id=publication_id
        ):
            with self._database.transaction() as conn:
                work = publications.claim(conn, publication_id, self._lease, tenant_id=tenant_id)
            if work is None:
                log.info("publication_not_due")
                return
            with (
                structlog.contextvars.bound_contextvars(run_id=work.run_id, fence=work.fence),
                span(
                    "publish",
                    kind="consumer",
                    publication_id=publication_id,
                    tenant_id=tenant_id,
                    run_id=work.run_id,
                    fence=work.fence,
                    attempts=work.attempts,
                ) as publishing,
            ):
                failure = self._answer(work)
                if failure is not None:
                    publishing.note(code=failure.code)

    def _answer(self, work: PublicationWork) -> Failure | None:
        """Publish it; why that failed, if it did."""
        if work.attempts > MAX_ATTEMPTS:  # processes died with it
            failure = _unexpected(retryable=False)
            self._record_failure(work, failure)
            return failure
        try:
            published = self._publish(work)
        except PublicationError as error:
            failure = error.failure
        except ObjectStoreError as error:
            log.warning("result_not_fetched", code=error.code, error=str(error))
            failure = _not_fetched(retryable=error.retryable)
        except TRANSIENT_ERRORS:
            raise
        except Exception:  # it counts as a try, so that the tries end
            log.exception("publication_failed_unexpectedly")
            failure = _unexpected(retryable=True)
        else:
            self._record_success(work, published)
            return None
        self._record_failure(work, failure)
        return failure

    def _publish(self, work: PublicationWork) -> Published:
        target = self._target_of(work)
        files = work.files
        if files is None:
            raise PublicationRefusedError(_gone(work))
        with self._scratch.work_folder("publication") as folder:
            get_folder(self._objects, files, folder / "stored")
            pictures = self._pictures(work, folder / "pictures")
            self._lay_out(work, folder / "stored", folder / "repo", pictures)
            if work.is_automatic and work.checkpoint_step is not None:
                keep_apart(folder / "repo", f"checkpoint-{work.checkpoint_step}")
            kind = "Result" if work.checkpoint_step is None else "Checkpoint"
            message = f"{kind} of {work.run_id} at step {work.step}"
            return target.publish(_repo_of(work), folder / "repo", message)

    def _pictures(self, work: PublicationWork, folder: Path) -> CardPictures | None:
        """Those that the run made while it trained, up to the step of what is published."""
        if work.step is None:
            return None
        with self._database.transaction() as conn:
            samples = run_samples.up_to(conn, work.tenant_id, work.run_id, work.step)
        return card_pictures(self._objects, work.tenant_id, samples, folder)

    def _lay_out(
        self, work: PublicationWork, stored: Path, repo: Path, pictures: CardPictures | None
    ) -> None:
        if work.checkpoint_step is None:
            try:
                lay_out(stored, repo, pictures)
            except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                log.error("result_has_no_card", error=repr(error))
                raise PublicationRefusedError(_no_card()) from error
            return
        with self._database.transaction() as conn:
            plan = run_documents.read_plan(conn, work.tenant_id, work.run_id)
        try:
            lay_out_checkpoint(stored, read_plan(plan), repo, pictures)
        except UnreadableDocumentError as error:
            raise PublicationRefusedError(error.failure) from error
        except CheckpointError as error:
            log.error("checkpoint_not_usable", error=str(error))
            raise PublicationRefusedError(_no_adapter()) from error

    def _target_of(self, work: PublicationWork) -> PublicationTarget:
        kind, secret = str(work.target.get("kind")), work.target.get("secret")
        if kind == "hub" and secret is not None:
            return TenantHubTarget(self._database, work.tenant_id, str(secret))
        target = self._targets.get(kind)
        if target is None:
            raise PublicationRefusedError(
                Failure(
                    code="unknown_target",
                    category=Category.USER,
                    message=f"There is no target of kind {kind}.",
                    retryable=False,
                )
            )
        return target

    def _record_success(self, work: PublicationWork, published: Published) -> None:
        try:
            with self._database.transaction() as conn:
                publications.succeed(
                    conn, work.publication_id, work.fence, published.location, published.revision
                )
        except LeaseLostError:
            log.warning("publication_taken_over")  # it published the same content
            return
        self._retire(work)
        tries.labels(outcome="succeeded").inc()
        log.info("publication_succeeded", location=published.location, revision=published.revision)

    def _record_failure(self, work: PublicationWork, failure: Failure) -> None:
        again_after = retry_after(work.attempts) if failure.retryable else None
        try:
            with self._database.transaction() as conn:
                publications.fail(conn, work.publication_id, work.fence, failure, again_after)
        except LeaseLostError:
            log.warning("publication_taken_over")
            return
        if again_after is None:
            self._retire(work)
        tries.labels(outcome=failure.code).inc()
        again_s = None if again_after is None else round(again_after.total_seconds(), 1)
        log.warning("publication_failed", code=failure.code, again_s=again_s)

    def _retire(self, work: PublicationWork) -> None:
        """Delete the checkpoint if it was kept only to be published."""
        if work.checkpoint_step is not None:
            with self._database.transaction() as conn:
                checkpoint_retention.retire_unneeded(conn, work.tenant_id, work.run_id)


def retry_after(attempts: int) -> timedelta | None:
    """When to try again after the ``attempts``-th try; None when that was the last one."""
    if attempts >= MAX_ATTEMPTS:
        return None
    return backoff(attempts - 1, first=FIRST_RETRY, limit=LONGEST_RETRY)


def _repo_of(work: PublicationWork) -> PublicationRepo:
    target: Mapping[str, Any] = work.target
    if target["kind"] == "hub":
        return PublicationRepo(
            name=str(target["repo_id"]), private=bool(target.get("private", True))
        )
    step = "" if work.checkpoint_step is None else f"-{checkpoint_name(work.checkpoint_step)}"
    return PublicationRepo(name=f"{work.tenant_id}/{work.run_id}{step}", private=True)


def _not_fetched(*, retryable: bool) -> Failure:
    return Failure(
        code="result_unavailable",
        category=Category.INFRA if retryable else Category.PLATFORM,
        message="The files could not be read from the object store.",
        retryable=retryable,
    )


def _unexpected(*, retryable: bool) -> Failure:
    return Failure(
        code="publishing_failed",
        category=Category.PLATFORM,
        message="It could not be published; this is a fault of the service.",
        retryable=retryable,
    )


def _no_card() -> Failure:
    return Failure(
        code="result_without_card",
        category=Category.PLATFORM,
        message="The result holds no facts for a model card.",
        retryable=False,
    )


def _gone(work: PublicationWork) -> Failure:
    return Failure(
        code="checkpoint_gone",
        category=Category.USER,
        message=f"The checkpoint of step {work.checkpoint_step} was replaced by newer ones.",
        retryable=False,
    )


def _no_adapter() -> Failure:
    return Failure(
        code="checkpoint_without_adapter",
        category=Category.PLATFORM,
        message="No adapter can be made of this checkpoint.",
        retryable=False,
    )
