"""The whole service on this machine, as a context manager: servers, processes and a tenant."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from services.embedded.console import start_new_logs
from services.embedded.errors import EmbeddedError
from services.embedded.home import Home
from services.embedded.startup import Children, Startup
from services.processes.errors import ChildError
from services.processes.supervisor import keep_running
from services.processes.threads import wait_for_end

log = structlog.get_logger()

_REST_S: Final = 60.0
"""For what a stop may meet beside the children, such as a migration of the database."""


class EmbeddedService:
    """Start with ``start`` or ``with``; ``stop`` leaves no process behind.

    Args:
        home: the folder for all its data.
        port: the API's port; None for 8484, or a free one if that is taken.
        trainers: how many trainer processes share this machine.
        env: settings that override the caller's environment, such as ``REVERIE_LEASE_S``.
        report: called with a message, such as a child's restart.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        trainers: int = 1,
        env: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.home = Home(home.expanduser().absolute())
        self.url = ""
        self.api_key = ""
        self.failure: EmbeddedError | None = None
        """The error that ended the service; None after a requested stop."""
        self._report = report
        self._fresh_logs = threading.Event()
        self._up = threading.Event()
        self._stop = threading.Event()
        self._force = threading.Event()
        self._thread: threading.Thread | None = None
        self._children = Children(self.home)
        self._startup = Startup(
            home=self.home,
            env={**os.environ, **(env or {})},
            port=port,
            trainers=trainers,
            children=self._children,
            stop_asked=self._stop.is_set,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def processes(self) -> dict[str, int]:
        """Pids of the running children by name: ``api``, ``trainer``, ``postgres``, …"""
        pids = {child.spec.name: child.pid for child in self._children.all}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def start(self) -> None:
        """Start everything and return when the API is ready; on failure everything is stopped.

        Raises:
            HomeInUseError: another ``reverie up`` uses this home.
            EmbeddedError: a part does not start; the message names its log.
        """
        self.begin()
        while not self.is_up() and self.is_running():
            self._up.wait(0.1)
        if not self.is_up():
            self.stop()
            raise self.failure or EmbeddedError("the service was stopped before it was up")

    def begin(self) -> None:
        """Start without waiting, for a caller that must handle signals meanwhile."""
        # A daemon thread: if the interpreter exits without stop(), the kernel ends the children.
        self._thread = threading.Thread(target=self._run, name="embedded", daemon=True)
        self._thread.start()

    def is_up(self) -> bool:
        return self._up.is_set()

    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def has_fresh_logs(self) -> bool:
        """Whether the log files of this start exist."""
        return self._fresh_logs.is_set()

    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, up to this time."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def ask_to_stop(self) -> None:
        """Request an orderly stop; returns at once."""
        self._stop.set()

    def force(self) -> None:
        """Stop without waiting: children that are still running are killed."""
        self._stop.set()
        self._force.set()

    def stop(self) -> None:
        """Stop everything in order (trainers first, servers last) and wait for it.

        What takes longer than all children may take together ends with this process: the kernel
        kills them then.
        """
        self._stop.set()
        if self._thread is not None:
            wait_for_end(self._thread, self._children.longest_stop_s() + _REST_S)

    def _run(self) -> None:
        lock: int | None = None
        try:
            self.home.prepare()
            lock = self.home.lock()
            self._bring_up()
            self._up.set()
            keep_running(self._children.all, stop_asked=self._stop.is_set, report=self._report)
        except EmbeddedError as error:
            self.failure = error
        except ChildError as error:
            self.failure = EmbeddedError(str(error))
        except Exception as error:  # the thread's outermost level: the children must be stopped
            log.exception("embedded_service_failed")
            self.failure = EmbeddedError(f"{type(error).__name__}: {error}")
        finally:
            self._children.stop(force_asked=self._force.is_set)
            if lock is not None:
                self.home.remove_address()
                os.close(lock)

    def _bring_up(self) -> None:
        for name in self.home.end_leftovers():
            self._report(f"ended {name}, left running by an earlier start that was killed")
        self.home.remove_address()  # also left by a killed start
        start_new_logs(self.home.logs)
        self._fresh_logs.set()
        address = self._startup.run()
        self.url, self.api_key = address.url, address.keys.api_key
        facts = {
            "url": self.url,
            "api_key": self.api_key,
            "operator_key": address.keys.operator_key,
            "pid": os.getpid(),
            "servers_dir": str(self._startup.servers_dir()),
        }
        self.home.write_address(facts)
