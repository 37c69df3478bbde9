"""Publish to the Hub with a tenant's own token, in a process that ends with the publication."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from huggingface_hub.utils.tqdm import disable_progress_bars

from services.results.secret_process import (
    ProcessEndedError,
    Sealed,
    enter,
    in_own_process,
    missing,
    open_here,
)
from services.results.targets.hub import HubAccess, HubTarget
from services.results.targets.port import (
    PublicationError,
    PublicationRefusedError,
    PublicationRepo,
    Published,
    TargetDownError,
)
from services.secrets.keys import BadKeyError
from services.secrets.opening import PrivateKeys
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
            raise PublicationRefusedError(missing(self._secret, "hub"))
        work = _Work(
            sealed=Sealed.of(sealed),
            asks_for_role=sealed.warning is None,
            repo=repo,
            files=files,
            message=message,
        )
        try:
            done = in_own_process(_publish, work)
        except ProcessEndedError as error:
            log.error("publishing_process_died")
            raise TargetDownError(_died()) from error
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

    sealed: Sealed
    asks_for_role: bool
    repo: PublicationRepo
    files: Path
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """What it answers: the publication or a failure."""

    was_opened: bool
    published: Published | None = None
    failure: Failure | None = None
    warning: str | None = None


def _publish(work: _Work) -> _Done:
    """Runs in the process of its own."""
    enter(work.sealed)
    disable_progress_bars()
    token = open_here(work.sealed)
    if isinstance(token, Failure):
        return _Done(was_opened=False, failure=token)
    target = HubTarget(
        HubAccess(
            token=token.get_secret_value(),
            endpoint=HubAccess.from_env(os.environ).endpoint,
            words=f"the token of the secret {work.sealed.place.name}",
        )
    )
    try:
        published = target.publish(work.repo, work.files, work.message)
    except PublicationError as error:
        return _Done(was_opened=True, failure=error.failure)
    is_broad = work.asks_for_role and target.role() == "write"
    return _Done(was_opened=True, published=published, warning=_BROAD if is_broad else None)


def _died() -> Failure:
    return Failure(
        code="publishing_died",
        category=Category.INFRA,
        message="The process that published the result ended early.",
        retryable=True,
    )
