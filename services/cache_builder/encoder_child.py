"""A warm child process that answers requests: one JSON line in, one JSON line out.

Requests go to its standard input, replies come on a pipe of their own (standard output belongs to
libraries). It is started at the first request, again after it died, and ended when it has been
idle for long: encoders hold many gigabytes.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import structlog

from services.processes.children import environment_for_child, kill_tree
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
"""select() promises room for this much (POSIX: PIPE_BUF)."""


class ChildLostError(Exception):
    """The child died, hung or answered nonsense; the next request starts another one."""


class RequestFailedError(Exception):
    """The child answered that it cannot; ``failure`` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class EncoderChild:
    """One child, one request at a time; safe to share among threads."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        deadline_s: float = REQUEST_DEADLINE_S,
        idle_end_s: float = IDLE_END_S,
        program: Sequence[str] = (sys.executable, "-m", "trainer_core"),
    ) -> None:
        """Starts nothing yet.

        Args:
            arguments: the sub-command and its options, such as ``("encode", "--models-dir", …)``.
            env: this process's environment; only what is on the allow-list goes on.
            deadline_s: a request that takes longer ends the child.
            idle_end_s: without a request for so long the child is ended.
        """
        self._command = (*program, *arguments)
        self._env = environment_for_child(env)
        self._deadline_s = deadline_s
        self._idle_end_s = idle_end_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies = -1
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
            request: one of the child's command.
            kind: what that command replies.

        Raises:
            RequestFailedError: the child says why it cannot; it stays.
            ChildLostError: it died, hung or answered nonsense; it is ended then.
        """
        with self._lock:
            self._stop_idle_timer()
            self._requests += 1
            id_ = str(self._requests)
            try:
                line = self._exchange(self._running(), request_line(id_, request))
                reply = read_reply(line, id_, kind)
            except (OSError, ValueError, ChildLostError) as error:
                how = self._end_locked()
                log.warning("encoder_child_lost", reason=str(error), how=how)
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

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end_locked()
        read_fd, write_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    "--reply-fd",
                    str(write_fd),
                    "--supervisor",
                    current_process_token(),
                ],
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=subprocess.DEVNULL,
                pass_fds=(write_fd,),
                env=self._env,
                start_new_session=True,
            )
        except OSError:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        self._replies = read_fd
        log.info("encoder_child_started", pid=self._process.pid)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> bytes:
        until_s = time.monotonic() + self._deadline_s
        self._send(process, line, until_s)
        body = bytearray()
        while not body.endswith(b"\n"):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([self._replies], [], [], left_s)[0]:
                raise ChildLostError(f"no reply within {self._deadline_s:g} s")
            chunk = os.read(self._replies, _READ_BYTES)
            if not chunk:
                raise ChildLostError("the process ended")
            body += chunk
            if len(body) > _MAX_REPLY_BYTES:
                raise ChildLostError("the reply is too long")
        return bytes(body)

    def _send(self, process: subprocess.Popen[bytes], line: bytes, until_s: float) -> None:
        """Write without blocking: a child that hangs must not take us with it."""
        assert process.stdin is not None
        stdin = process.stdin.fileno()
        os.set_blocking(stdin, False)
        rest = memoryview(line)
        while rest:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([], [stdin], [], left_s)[1]:
                raise ChildLostError(f"took no request within {self._deadline_s:g} s")
            rest = rest[os.write(stdin, rest[:_PIPE_BYTES]) :]

    def _end_locked(self) -> str:
        """How it ended, for the log."""
        process, self._process = self._process, None
        if process is None:
            return "not running"
        if process.poll() is None:
            kill_tree(process.pid)
        status = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        os.close(self._replies)
        return f"status {status}"

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
                log.info("encoder_child_idle")
