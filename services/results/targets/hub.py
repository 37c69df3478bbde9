"""Publish to the Hugging Face Hub, or to a server that speaks its protocol, in one commit.

huggingface_hub asks for each file's upload mode (preupload), sends big and binary files through Xet
or, with HF_HUB_DISABLE_XET=1, through Git LFS, and then posts the commit. Files that are
there already are left out, and an empty commit is not made; so publishing twice is harmless.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import httpx2  # what huggingface_hub speaks HTTP with
import structlog
from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from services.results.targets.port import (
    PublicationRefusedError,
    PublicationRepo,
    Published,
    TargetDownError,
)
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_TRY_LATER: Final = frozenset({408, 409, 412, 423, 425, 429})  # besides all of 5xx
_REASONS: Final = {
    401: ("hub_token_refused", "The Hub does not accept {token}."),
    403: ("hub_forbidden", "The Hub gives {token} no right to write to {name}."),
    404: ("hub_repo_missing", "{name} does not exist on the Hub, or {token} cannot read it."),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HubAccess:
    """How the results process reaches the Hub."""

    token: str | None = field(repr=False)
    endpoint: str | None
    """None: the public Hub."""
    words: str = "this service's token"
    """How failures name the token."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read HF_TOKEN and HF_ENDPOINT; an empty one counts as not set."""
        return cls(token=env.get("HF_TOKEN") or None, endpoint=env.get("HF_ENDPOINT") or None)


class HubTarget:
    """A ``PublicationTarget`` that writes with one token; one for a process."""

    def __init__(self, access: HubAccess, *, timeout_s: float = 120) -> None:
        """``timeout_s``: how long to wait for the Hub's response; large commits take a while."""
        # The library's own client waits for ever. It keeps one client for the whole process.
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, 10))
        set_client_factory(lambda: httpx2.Client(follow_redirects=True, timeout=timeout))
        self._has_token = access.token is not None
        self._words = access.words
        # False, not None: with None the library uses the token of a login on this machine.
        self._api = HfApi(endpoint=access.endpoint, token=access.token or False)

    def publish(self, repo: PublicationRepo, files: Path, message: str) -> Published:
        """See ``PublicationTarget``; the revision is the Hub's commit."""
        if not self._has_token:
            raise PublicationRefusedError(
                _failure("hub_token_missing", "This service has no token for the Hub (HF_TOKEN).")
            )
        additions = [
            CommitOperationAdd(path_in_repo=str(path.relative_to(files)), path_or_fileobj=path)
            for path in sorted(files.rglob("*"))
            if path.is_file()
        ]
        try:
            # Of a name without an owner the Hub tells whose it is.
            made = self._api.create_repo(repo.name, private=repo.private, exist_ok=True)
            commit = self._api.create_commit(
                made.repo_id, operations=additions, commit_message=message
            )
        except RuntimeError as error:
            # The library wraps every upload error in this one. A 403 from the storage behind the
            # Hub is no refusal by the Hub: signed links expire.
            log.warning("hub_upload_broke_off", error=type(error.__cause__ or error).__name__)
            raise TargetDownError(_down("The upload to the Hub broke off.")) from error
        except (httpx2.HTTPError, ValueError, OSError) as error:
            raise _classified(error, repo.name, self._words) from error
        return Published(location=f"{self._api.endpoint}/{made.repo_id}", revision=commit.oid)

    def role(self) -> str | None:
        """What the token is: ``fineGrained``, ``write``, …; None where the Hub does not tell."""
        try:
            facts = self._api.whoami()
            return str(facts["auth"]["accessToken"]["role"])
        except (httpx2.HTTPError, ValueError, OSError, KeyError, TypeError) as error:
            log.info("hub_role_unknown", error=type(error).__name__)
            return None


def _classified(
    error: Exception, name: str, token: str
) -> PublicationRefusedError | TargetDownError:
    if isinstance(error, HfHubHTTPError):
        return _answered(error, name, token)
    if isinstance(error, HFValidationError):
        message = f"{name} cannot be the name of a repository on the Hub."
        return PublicationRefusedError(_failure("hub_bad_name", message))
    # A gateway's HTML page instead of JSON means that the Hub is down.
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        # The Hub rejects the card's metadata.
        return PublicationRefusedError(_failure("hub_refused", f"The Hub refused: {error}"))
    log.warning("hub_unreachable", error=type(error).__name__)
    return TargetDownError(_down("The Hub cannot be reached."))


def _answered(
    error: HfHubHTTPError, name: str, token: str
) -> PublicationRefusedError | TargetDownError:
    status = error.response.status_code
    log.warning("hub_refused", status=status, repo=name, request=error.request_id)
    if status >= 500 or status in _TRY_LATER:
        return TargetDownError(_down(f"The Hub answered {status}."))
    if status in _REASONS:
        code, message = _REASONS[status]
        return PublicationRefusedError(_failure(code, message.format(name=name, token=token)))
    reason = (error.server_message or "no reason given").strip()[:500]
    return PublicationRefusedError(_failure("hub_refused", f"The Hub refused ({status}): {reason}"))


def _failure(code: str, message: str) -> Failure:
    return Failure(code=code, category=Category.USER, message=message, retryable=False)


def _down(message: str) -> Failure:
    return Failure(code="hub_down", category=Category.INFRA, message=message, retryable=True)
