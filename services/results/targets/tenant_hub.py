"""Publish to the Hub with a tenant's own token, in a process that ends with the publication.

Python cannot wipe memory: what a process has held may be found in it until it ends. So the token is
opened in a process of its own, which publishes once. The results process holds sealed secrets only.
"""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from huggingface_hub.utils.tqdm import disable_progress_bars

from services.logs.setup import configure
from services.processes.core_dumps import forbid_core_dumps
from services.processes.launch import die_with_parent
from services.results.targets.hub import HubAccess, HubTarget
from services.results.targets.port import (
    PublicationError,
    PublicationRefusedError,
    PublicationRepo,
    Published,
    TargetDownError,
)
from services.secrets.envelope import Envelope, KeyMissingError, SecretPlace, SecretUnreadableError
from services.secrets.keys import BadKeyError
from services.secrets.opening import PrivateKeys, open_secret
from services.settings.env import Settings, SettingsError
from services.store import sealed_secrets
from services.store.database import Database
from services.store.sealed_secrets import SealedSecret
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_BROAD: Final = (
    "This token may write to every repository of its account. A fine-grained token that may write "
    "to the repositories for results only is safer."
)


def check_private_keys(settings: Settings) -> None:
    """Raises SettingsError where the private keys are none."""
    try:
        if settings.secrets_private_keys is not None:
            PrivateKeys.parse(settings.secrets_private_keys)
    except BadKeyError as error:
        raise SettingsError(f"REVERIE_SECRETS_PRIVATE_KEYS: {error}") from None


class TenantHubTarget:
    """A ``PublicationTarget`` that writes with the token of one of a tenant's secrets."""

    def __init__(self, database: Database, tenant_id: str, secret: str) -> None:
        """``secret``: the name of the secret, which is of the kind ``hub``."""
        self._database = database
        self._tenant_id = tenant_id
        self._secret = secret

    def publish(self, repo: PublicationRepo, files: Path, message: str) -> Published:
        """See ``PublicationTarget``; the revision is the Hub's commit."""
        with self._database.transaction() as conn:
            sealed = sealed_secrets.get(conn, self._tenant_id, self._secret, "hub")
        if sealed is None:
            raise PublicationRefusedError(_missing(self._secret))
        done = _in_own_process(
            _Work(
                envelope=sealed.envelope,
                place=sealed.place,
                asks_for_role=sealed.warning is None,
                repo=repo,
                files=files,
                message=message,
                log_context=structlog.contextvars.get_contextvars(),
                parent_pid=os.getpid(),
            )
        )
        if done.was_opened:
            self._note_use(sealed, done.warning)
        if done.published is not None:
            return done.published
        assert done.failure is not None
        kind = TargetDownError if done.failure.retryable else PublicationRefusedError
        raise kind(done.failure)

    def _note_use(self, sealed: SealedSecret, warning: str | None) -> None:
        with self._database.transaction() as conn:
            sealed_secrets.note_use(conn, sealed.place, warning)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What the process is told."""

    envelope: Envelope
    place: SecretPlace
    asks_for_role: bool
    repo: PublicationRepo
    files: Path
    message: str
    log_context: dict[str, Any]
    parent_pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """What it answers: the publication or a failure."""

    was_opened: bool
    published: Published | None = None
    failure: Failure | None = None
    warning: str | None = None


def _in_own_process(work: _Work) -> _Done:
    """Raises TargetDownError where the process dies."""
    own = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=own) as pool:
            return pool.submit(_publish, work).result()
    except BrokenProcessPool as error:
        log.error("publishing_process_died")
        raise TargetDownError(_died()) from error


def _publish(work: _Work) -> _Done:
    """Runs in the process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent decides
    die_with_parent(signal.SIGKILL, work.parent_pid)
    forbid_core_dumps()
    settings = Settings.from_env(os.environ)
    configure("results", settings.log_format)
    disable_progress_bars()
    structlog.contextvars.bind_contextvars(**work.log_context)
    try:
        if settings.secrets_private_keys is None:
            raise KeyMissingError(work.envelope.key_id)
        keys = PrivateKeys.parse(settings.secrets_private_keys)
        token = open_secret(work.envelope, work.place, keys)
    except SecretUnreadableError as error:
        log.error("secret_unreadable", secret_id=work.place.secret_id, reason=str(error))
        is_missing = isinstance(error, KeyMissingError)
        failure = _unreadable(work.place.name, retryable=is_missing)
        return _Done(was_opened=False, failure=failure)
    target = HubTarget(
        HubAccess(
            token=token.get_secret_value(),
            endpoint=HubAccess.from_env(os.environ).endpoint,
            words=f"the token of the secret {work.place.name}",
        )
    )
    try:
        published = target.publish(work.repo, work.files, work.message)
    except PublicationError as error:
        return _Done(was_opened=True, failure=error.failure)
    is_broad = work.asks_for_role and target.role() == "write"
    return _Done(was_opened=True, published=published, warning=_BROAD if is_broad else None)


def _missing(name: str) -> Failure:
    return Failure(
        code="secret_missing",
        category=Category.USER,
        message=f"There is no secret {name} of the kind hub any more: store it, and publish again.",
        retryable=False,
    )


def _unreadable(name: str, *, retryable: bool) -> Failure:
    return Failure(
        code="secret_unreadable",
        category=Category.PLATFORM,
        message=f"The service cannot open the secret {name}. Store it again, and publish again.",
        retryable=retryable,
    )


def _died() -> Failure:
    return Failure(
        code="publishing_died",
        category=Category.INFRA,
        message="The process that published the result ended early.",
        retryable=True,
    )
