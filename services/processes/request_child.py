"""A child process that stays running and answers requests: one JSON line in, one JSON line out.

Requests are written to its standard input. Replies use a separate pipe, because libraries print to
standard output. The child is started at the first request, and again after it has died. It is ended
after a long time without requests, because encoders hold many gigabytes.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import structlog

from services.processes.child import ChildProcess
from services.processes.environment import environment_for_child
from trainer_core.config.plan.frozen import Frozen
from trainer_core.process.failure import Failure
from trainer_core.process.requests import Reply, read_reply, request_line
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

REQUEST_DEADLINE_S: Final = 300.0
IDLE_END_S: Final = 600.0
_MAX_REPLY_BYTES: Final = 16 << 20
_READ_BYTES: Final = 65536
_PIPE_BYTES: Final = 4096
"""After select() a write of this size does not block (POSIX: PIPE_BUF)."""


class ChildLostError(Exception):
    """The child died, hung or sent an invalid reply; the next request starts a new one."""


class RequestFailedError(Exception):
    """The child replied that it failed; ``failure`` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class RequestChild:
    """One child, one request at a time; safe to share among threads."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        deadline_s: float = REQUEST_DEADLINE_S,
        idle_end_s: float = IDLE_END_S,
        added: Mapping[str, str] | None = None,
    ) -> None:
        """The child is started by the first request.

        Args:
            command: the program and its arguments; ``--reply-fd`` and ``--supervisor`` are added.
            env: this process's environment; the child gets the allow-listed part of it.
            deadline_s: the child is killed when a request takes longer.
            idle_end_s: the child is ended after this time without a request.
            added: variables that the child gets beside those.
        """
        self._command = tuple(command)
        self._env = {**environment_for_child(env), **(added or {})}
        self._deadline_s = deadline_s
        self._idle_end_s = idle_end_s
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._requests = 0
        self._idle_timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def request(self, request: Frozen, kind: type[Reply]) -> Reply:
        """Send a request and return the reply.

        Args:
            request: a request type of the child's command.
            kind: the reply type of that command.

        Raises:
            RequestFailedError: the child replied with a failure; it keeps running.
            ChildLostError: it died, hung or sent an invalid reply; it has been ended.
        """
        with self._lock:
            self._stop_idle_timer()
            self._requests += 1
            id_ = str(self._requests)
            try:
                line = self._start_or_reuse().exchange(
                    request_line(id_, request), deadline_s=self._deadline_s
                )
                reply = read_reply(line, id_, kind)
            except (OSError, ValueError, ChildLostError) as error:
                how = self._end_locked()
                log.warning("request_child_lost", reason=str(error), how=how)
                raise ChildLostError(f"{error} ({how})") from error
            self._start_idle_timer()
            if isinstance(reply, Failure):
                raise RequestFailedError(reply)
            return reply

    def end(self) -> None:
        """End the child; a later request starts another one."""
        with self._lock:
            self._stop_idle_timer()
            self._end_locked()

    def _start_or_reuse(self) -> "_Running":
        if self._running is None or not self._running.process.is_running:
            self._end_locked()
            self._running = _start(self._command, self._env)
            log.info("request_child_started", pid=self._running.process.pid)
        return self._running

    def _end_locked(self) -> str:
        """How it ended, for the log."""
        running, self._running = self._running, None
        return "not running" if running is None else running.end()

    def _start_idle_timer(self) -> None:
        self._idle_timer = threading.Timer(self._idle_end_s, self._end_idle, (self._requests,))
        self._idle_timer.daemon = True
        self._idle_timer.start()

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _end_idle(self, requests: int) -> None:
        with self._lock:
            if self._requests == requests:
                self._end_locked()
                log.info("request_child_idle")


class _Running:
    """A running child with our ends of its two pipes."""

    def __init__(self, process: ChildProcess, requests: int, replies: int) -> None:
        self.process = process
        self._requests = requests
        self._replies = replies
        os.set_blocking(requests, False)  # a child that hangs must not block us

    def exchange(self, line: bytes, *, deadline_s: float) -> bytes:
        """Send a line and return the reply's line; raises OSError or ChildLostError."""
        end_s = time.monotonic() + deadline_s
        rest = memoryview(line)
        while rest:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not select.select([], [self._requests], [], left_s)[1]:
                raise ChildLostError(f"accepted no request within {deadline_s:g} s")
            rest = rest[os.write(self._requests, rest[:_PIPE_BYTES]) :]
        body = bytearray()
        while not body.endswith(b"\n"):
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not select.select([self._replies], [], [], left_s)[0]:
                raise ChildLostError(f"no reply within {deadline_s:g} s")
            chunk = os.read(self._replies, _READ_BYTES)
            if not chunk:
                raise ChildLostError("the process ended")
            body += chunk
            if len(body) > _MAX_REPLY_BYTES:
                raise ChildLostError("the reply is too long")
        return bytes(body)

    def end(self) -> str:
        """Kill it with its descendants; returns how it ended."""
        self.process.kill()
        os.close(self._requests)
        os.close(self._replies)
        return self.process.exit_in_words()


def _start(command: Sequence[str], env: Mapping[str, str]) -> _Running:
    """Raises OSError where the program cannot be started."""
    with contextlib.ExitStack() as at_failure, contextlib.ExitStack() as of_child:
        stdin, requests = os.pipe()
        of_child.callback(os.close, stdin)
        at_failure.callback(os.close, requests)
        replies, reply_fd = os.pipe()
        of_child.callback(os.close, reply_fd)
        at_failure.callback(os.close, replies)
        process = ChildProcess(
            [*command, "--reply-fd", str(reply_fd), "--supervisor", current_process_token()],
            env=env,
            stdin=stdin,
            pass_fds=[reply_fd],
        )
        at_failure.pop_all()
        return _Running(process, requests, replies)
