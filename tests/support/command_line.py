"""A command of `reverie` that computes nothing: a fork, run to its end; or a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.forking import COMMANDS, start_module
from tests.support.service import new_tenant

_WITHIN_S = 120


def reverie(
    args: Sequence[str], env: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``reverie ARGS``.

    Args:
        env: its whole environment, without what is named in the tests' own for Reverie.
        folder: its working directory; None for that of this process.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start_module(
            "services.cli.main",
            args,
            env=env,
            output=output,
            errors=errors,
            folder=folder,
            kind=COMMANDS,
        )
        status = process.wait(_WITHIN_S)
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(args, status, *said)


def environment(url: str, api_key: str) -> dict[str, str]:
    """The environment of a user of the service at that address."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("REVERIE_")}
    return {**own, "REVERIE_URL": url, "REVERIE_API_KEY": api_key}


class CommandLine:
    """`reverie` as a process, for one tenant of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        tenant = new_tenant(fleet, "cli")
        self.url = fleet.url
        self.api_key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
        self.env = environment(self.url, self.api_key)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", *args],
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = reverie(args, self.env)
        assert done.returncode == status, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done
