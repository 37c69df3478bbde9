"""A measured process with its children: what it says, its CPU time, and its scratch space."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_POLL_S: Final = 0.05
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Watched:
    """Starts the process in a session of its own; leaving the block kills what is left of it."""

    def __init__(self, command: Sequence[str], scratch: Path, env: Mapping[str, str]) -> None:
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
            start_new_session=True,
        )
        self._scratch = scratch
        self._ended = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self.highest_bytes = 0
        """Most that the scratch folder took on the disk, with deleted files that are open."""

    def __enter__(self) -> Self:
        self._poller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._ended.set()
        self._poller.join()

    def next_mark(self, name: str) -> dict[str, Any]:
        """Wait for the mark of this name, at which the process stops; raises RuntimeError."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                facts = json.loads(line)
                if facts.get("mark") == name:
                    return dict(facts)
        raise RuntimeError(f"the process ended with {self._process.wait()} before mark {name}")

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Kill the process and its children, as the kernel does where memory is short."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def cpu_s(self) -> float:
        """CPU seconds of the process, its children, and those of them that have ended."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                ticks += sum(int(each) for each in _stat(pid)[11:15])
        return ticks / _TICKS_A_SECOND

    def _pids(self) -> list[int]:
        pids = []
        for path in Path("/proc").glob("[1-9]*"):
            with contextlib.suppress(OSError):
                if int(_stat(int(path.name))[3]) == self._process.pid:
                    pids.append(int(path.name))
        return pids

    def _poll(self) -> None:
        while not self._ended.wait(_POLL_S):
            self.highest_bytes = max(self.highest_bytes, self._scratch_bytes())

    def _scratch_bytes(self) -> int:
        blocks: dict[int, int] = {}
        for parent, _, names in os.walk(self._scratch):
            for name in names:
                with contextlib.suppress(OSError):
                    facts = (Path(parent) / name).lstat()
                    blocks[facts.st_ino] = facts.st_blocks
        for pid in self._pids():
            with contextlib.suppress(OSError):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(link.readlink()).startswith(str(self._scratch)):
                            facts = link.stat()
                            blocks[facts.st_ino] = facts.st_blocks
        return sum(blocks.values()) * 512


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` after the name; the session is the fourth of them."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
