"""A program at a terminal of its own: a pty of 80 columns, with a person who answers."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_until

COLUMNS = 80
_ROWS = 24
_DEADLINE_S = 60
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """What a program has printed so far, and its keyboard."""

    def __init__(self, fd: int, pid: int) -> None:
        self._fd, self._pid = fd, pid
        self._unread = ""
        self.printed = ""

    @property
    def rows(self) -> list[str]:
        """The lines of everything that was printed and typed."""
        return self.printed.replace("\r\n", "\n").split("\n")

    def wait_for(self, pattern: str) -> str:
        """What was printed since the last call, up to the first match."""
        while not (found := re.search(pattern, self._unread)):
            assert self._read(), f"the program ended before {pattern!r}: {self.printed}"
        self._unread, before = self._unread[found.end() :], self._unread[: found.end()]
        return before

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def answer(self, question: str, answer: str) -> None:
        """Type an answer, and Enter, once the question is there."""
        self.wait_for(question)
        self.type(f"{answer}\n")

    def press_once_it_reads(self, key: str) -> None:
        """Type a key when the program waits for one.

        A signal that comes just before ``read`` is called does not end it.
        """
        status = Path(f"/proc/{self._pid}/stat")
        wait_until(
            lambda: status.read_text().rpartition(")")[2].split()[0] == "S",
            what="the program to wait for a key",
            every_s=0.005,
        )
        self.type(key)

    def read_to_end(self) -> None:
        while self._read():
            pass

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], _DEADLINE_S)
        assert ready, f"nothing more was printed: {self.printed}"
        try:
            text = os.read(self._fd, 1 << 16).decode()
        except OSError:  # Linux's answer when the other side is closed
            return False
        self.printed += text
        self._unread += text
        return bool(text)


@contextmanager
def at_terminal(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Iterator[Terminal]:
    """Start a program at a terminal; it ends with the block."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execve(command[0], list(command), dict(env))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, COLUMNS, 0, 0))
    try:
        yield Terminal(fd, pid)
    finally:
        os.close(fd)  # hangs the program up
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
