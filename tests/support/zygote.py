"""Training processes that start fast: forked from a server that has imported all modules.

The server never runs a torch operation. So the threads, generators and caches of a child are those
of a new process, and only the seconds of importing are saved. Start it with ``start_zygote``.
"""

import importlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Event, events_in

_DEADLINE_S = 240
_TRAIN = "trainer_core.commands.train"
_COMMAND = "services.cli.main"


class Zygote:
    """The server, for the tests; one run at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert self._answer() == {"ready": True}

    def train(
        self, job: Mapping[str, Any], folder: Path, env: Mapping[str, str] | None = None
    ) -> tuple[int, list[Event]]:
        """As ``tests.support.jobs.train``: exit status, and all events in ``folder`` so far."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        argv = ["--job", str(folder / "job.json"), "--events", str(folder / "events.jsonl")]
        status = self.run(_TRAIN, argv, folder / "output.log", env)
        return status, events_in(folder)

    def run(
        self, module: str, argv: Sequence[str], output: Path, env: Mapping[str, str] | None = None
    ) -> int:
        """Exit status of ``module.main(argv)`` in a forked process that prints to ``output``."""
        request = {
            "module": module,
            "argv": list(argv),
            "env": dict(env or {}),
            "output": str(output),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["status"])

    def reverie(
        self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit status of a ``reverie`` command in a forked process, and all that it printed.

        Args:
            argv: what follows ``reverie``; paths in it are absolute.
            log: gets what it prints, too.
            env: set in its process.
        """
        status = self.run(_COMMAND, [str(each) for each in argv], log, env)
        return status, log.read_text()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _DEADLINE_S)
        line = self._process.stdout.readline() if ready else ""
        assert line, "the zygote does not answer"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def start_zygote() -> Iterator[Zygote]:
    """A server whose processes have one thread; it ends with the block, with its child."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "REVERIE_ENV": "test"},
        process_group=0,
    )
    try:
        yield Zygote(process)
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    with start_zygote() as server:
        yield server


def _serve() -> None:
    """Read requests from stdin until it is closed; each is run in a child process."""
    # What a run imports late is imported here once, instead of once in each child.
    import bitsandbytes.optim  # noqa: F401
    import peft  # noqa: F401
    import prodigyopt  # noqa: F401

    import trainer_core.engine.loop
    import trainer_core.export.merge
    import trainer_core.local.run
    import trainer_core.painting.generate  # noqa: F401 - only loaded

    importlib.import_module(_COMMAND)
    importlib.import_module(_TRAIN)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
            status = 1
            try:
                status = _main(request["module"], request["argv"])
            except BaseException:  # noqa: BLE001 - the child must never continue as a server
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(pid, 0)
        reply = {"status": os.waitstatus_to_exitcode(ended)}
        print(json.dumps(reply), file=replies, flush=True)


def _main(module: str, argv: list[str]) -> int:
    """The exit status of ``module.main``; the command line reads ``sys.argv`` and raises it."""
    main = importlib.import_module(module).main
    if module != _COMMAND:
        return int(main(argv))
    sys.argv = ["reverie", *argv]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _become(request: dict[str, Any]) -> None:
    """Take the environment, the input and the output of the request."""
    os.environ.update(request["env"])
    for path, flags, descriptor in (
        (os.devnull, os.O_RDONLY, 0),
        (request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1),
        (request["output"], os.O_WRONLY | os.O_APPEND, 2),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)


if __name__ == "__main__":
    _serve()
