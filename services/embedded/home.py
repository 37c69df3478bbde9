"""The home folder of an embedded service: its layout, lock, secrets and address."""

import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.embedded.errors import HomeInUseError
from services.processes.pid_files import end_leftovers
from services.secrets.keys import new_private_key

DEFAULT_HOME = "~/.reverie"
_LEFTOVER_GRACE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """Created once per home and stored in ``secrets.json`` (mode 0600)."""

    postgres_password: str
    broker_password: str
    signing_key: str
    """Hex; signs the folder store's URLs."""
    key_pepper: str
    """Hex; API keys are stored as HMACs with it."""
    secrets_private_key: str
    """Opens the secrets of tenants."""
    api_key: str | None
    """The first tenant's API key; None until there is a database."""
    operator_key: str | None
    """For /v1/admin; None until there is a database."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of an embedded service; no folder is created before ``prepare``."""

    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    @property
    def publications(self) -> Path:
        return self.path / "publications"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def pids(self) -> Path:
        """One file for each running child: pid and start ticks."""
        return self.path / "run"

    def prepare(self) -> None:
        """Create the missing folders.

        A home that root creates can be entered but not listed by others, because the servers run
        as another user. The mode of an existing folder is not changed.
        """
        if not self.path.exists():
            self.path.mkdir(parents=True)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        folders = (
            self.logs,
            self.models,
            self.objects,
            self.publications,
            self.scratch,
            self.pids,
        )
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> int:
        """Lock the home for this process, until the returned descriptor is closed.

        Raises:
            HomeInUseError: another ``reverie up`` uses it.
        """
        descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HomeInUseError(
                f"Reverie is running in {self.path}; stop it, or set REVERIE_HOME to another folder"
            ) from None
        return descriptor

    def secrets(self) -> Secrets:
        """The secrets of this home; the first call creates those that are missing."""
        file = self.path / "secrets.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        fresh = {
            "postgres_password": secrets.token_hex(24),
            "broker_password": secrets.token_hex(24),
            "signing_key": secrets.token_hex(32),
            "key_pepper": secrets.token_hex(32),
            "secrets_private_key": new_private_key(),
            "api_key": None,
            "operator_key": None,
        }
        found = Secrets(**{**fresh, **known})
        if fresh.keys() - known.keys():
            self.save_secrets(found)
        return found

    def save_secrets(self, saved: Secrets) -> None:
        write_private(self.path / "secrets.json", dataclasses.asdict(saved))

    def write_address(self, facts: Mapping[str, Any]) -> None:
        """Write ``service.json`` (0600): how clients on this machine find the service."""
        write_private(self._address_file, facts)

    def remove_address(self) -> None:
        self._address_file.unlink(missing_ok=True)

    @property
    def _address_file(self) -> Path:
        return self.path / "service.json"

    def end_leftovers(self) -> list[str]:
        """End processes of a killed service and return their names. Lock the home first."""
        return end_leftovers(self.pids, grace_s=_LEFTOVER_GRACE_S)


def write_private(file: Path, body: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically; only its owner can read it."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(body, stream)
    fresh.replace(file)
