"""The interface of publication targets: a folder and the Hub, under one contract test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer_core.process.failure import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicationRepo:
    """The repository within a target."""

    name: str
    """``owner/name``; the owner is a tenant in the folder, a user or organization on the Hub."""
    private: bool
    """Who may read a repository that is made new; one that exists stays as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Where the published result is stored."""

    location: str
    """A folder's path or a web address."""
    revision: str
    """Changes with the content: equal content published again gives the same one."""


class PublicationError(Exception):
    """The target does not take the result; ``failure`` has the reason for the tenant."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class PublicationRefusedError(PublicationError):
    """The target refused, and will refuse again: token, rights, name, content."""


class TargetDownError(PublicationError):
    """The target does not answer, or is unavailable; the same call may succeed later."""


class PublicationTarget(Protocol):
    def publish(self, repo: PublicationRepo, files: Path, message: str) -> Published:
        """Make ``repo`` hold exactly the files of the folder ``files``. Idempotent.

        Raises PublicationRefusedError or TargetDownError.
        """
