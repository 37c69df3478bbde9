"""Which user runs the embedded servers, and where. PostgreSQL refuses to run as root.

The mode and the owner of a folder that exists are never changed. If that user cannot enter
the home, the servers' data is stored in a folder under /var/lib/reverie.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from services.embedded.errors import EmbeddedError

_ELSEWHERE = Path("/var/lib/reverie")
_USERS = ("reverie", "nobody")


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The user that the servers run as; -1 is the user of this process."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        return self.uid >= 0

    def run(self, command: list[str | Path], *, stdin: str | None = None) -> str:
        """Run a command as this user and return its output.

        Raises:
            EmbeddedError: it failed; the message carries its output.
        """
        done = subprocess.run(
            [str(part) for part in command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            umask=0o077,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{command[0]} failed ({done.returncode}): {done.stdout.strip()}")
        return done.stdout

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can enter the folder and all its parents."""
        if not self.is_other:
            return True
        try:
            self.run(["/bin/sh", "-c", 'cd "$0"', folder])
        except EmbeddedError:
            return False
        return True

    def make_folder(self, folder: Path) -> None:
        """Create a folder that only this user can access."""
        if not folder.exists():
            folder.mkdir(mode=0o700)
            if self.is_other:
                os.chown(folder, self.uid, self.gid)


def server_owner() -> Owner:
    """The user for the servers: under root ``reverie`` or ``nobody``, else this process's user."""
    if os.geteuid() != 0:
        return Owner(uid=-1, gid=-1)
    for name in _USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(uid=user.pw_uid, gid=user.pw_gid)
    raise EmbeddedError(f"root cannot run PostgreSQL, and there is no user {' or '.join(_USERS)}")


def servers_folder(home: Path, owner: Owner) -> Path:
    """The folder for the servers' data: in the home if the owner can enter it."""
    if owner.can_enter(home):
        folder = home / "servers"
    else:
        _ELSEWHERE.mkdir(mode=0o711, parents=True, exist_ok=True)
        name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
        folder = _ELSEWHERE / name
    owner.make_folder(folder)
    return folder


def reachable_tree(tree: Path, owner: Owner, folder: Path) -> Path:
    """``tree`` if the owner can enter it, else a copy of it under ``folder``."""
    if owner.can_enter(tree):
        return tree
    copy = folder / "bin" / tree.name
    if not copy.exists():
        fresh = copy.with_name(f".{copy.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(tree, fresh, symlinks=True)
        for path in [folder / "bin", fresh, *fresh.rglob("*")]:
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
        fresh.rename(copy)
    return copy
