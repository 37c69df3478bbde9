"""A whole Reverie on this machine, as a context manager: servers, processes, a tenant, its key."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import structlog

from services.embedded import parts, servers
from services.embedded.account import prepare_database
from services.embedded.child import Child, ChildSpec
from services.embedded.console import start_new_logs
from services.embedded.errors import ChildDiedError, StackError
from services.embedded.home import Home
from services.embedded.owner import server_owner, servers_folder
from services.embedded.servers import Server
from services.embedded.supervisor import stop_in_order, wait_ready, watch

log = structlog.get_logger()

DEFAULT_PORT = 8484
_SERVER_DEADLINE_S = 60.0
_API_DEADLINE_S = 90.0
_MODEL_DEADLINE_S = 180.0
_PORT_TRIES = 3


class Stack:
    """Start with ``start`` or ``with``; ``stop`` leaves no process behind.

    Args:
        home: folder of everything it keeps.
        port: of the API; None takes 8484, or a free one where that is taken.
        trainers: how many trainer processes share this machine.
        env: settings over the caller's environment, such as ``REVERIE_LEASE_S``.
        say: told in a sentence when a child had to be started again.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        trainers: int = 1,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.home = Home(home.expanduser().absolute())
        self.trainers = trainers
        self.url = ""
        self.api_key = ""
        self.failure: StackError | None = None
        """Why it ended by itself."""
        self._wanted_port = port
        self._env = {**os.environ, **(env or {})}
        self._say = say
        self._servers: list[Child] = []
        self._processes: list[Child] = []
        self._fresh_logs = threading.Event()
        self._up = threading.Event()
        self._stop = threading.Event()
        self._force = threading.Event()
        self._thread: threading.Thread | None = None

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
        """Pids of the living children by name: ``api``, ``trainer``, ``postgres``, …"""
        children = [*self._servers, *self._processes]
        return {child.spec.name: pid for child in children if (pid := child.pid) is not None}

    def start(self) -> None:
        """Bring everything up and return when the API is ready; on failure all is stopped again.

        Raises:
            HomeInUseError: another stack runs in this home.
            StackError: something does not start; the message names the log.
        """
        self.begin()
        while not self.is_up() and self.is_running():
            self._up.wait(0.1)
        if not self.is_up():
            self.stop()
            raise self.failure or StackError("the stack was stopped before it was up")

    def begin(self) -> None:
        """Start without waiting, for a caller that has signals to serve meanwhile."""
        # A daemon: when the interpreter ends without a stop, the kernel ends the children with it.
        self._thread = threading.Thread(target=self._run, name="stack", daemon=True)
        self._thread.start()

    def is_up(self) -> bool:
        return self._up.is_set()

    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def has_fresh_logs(self) -> bool:
        """Whether the log files are those of this start."""
        return self._fresh_logs.is_set()

    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, but no longer than this."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def ask_to_stop(self) -> None:
        """Begin the orderly end; returns at once."""
        self._stop.set()

    def force(self) -> None:
        """No more waiting: children that are ending are killed."""
        self._stop.set()
        self._force.set()

    def stop(self) -> None:
        """Stop everything in order (trainers first, servers last) and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        lock: int | None = None
        try:
            self.home.prepare()
            lock = self.home.lock()
            self._bring_up()
            self._up.set()
            everyone = [*self._servers, *self._processes]
            watch(everyone, stop_asked=self._stop.is_set, say=self._say)
        except StackError as error:
            self.failure = error
        except Exception as error:  # the thread's outermost edge: children must end
            log.exception("stack_failed")
            self.failure = StackError(f"{type(error).__name__}: {error}")
        finally:
            trainers = [c for c in self._processes if c.spec.name.startswith("trainer")]
            others = [c for c in self._processes if c not in trainers]
            stop_in_order([trainers, others, self._servers], force_asked=self._force.is_set)
            if lock is not None:
                self.home.retract()
                os.close(lock)

    def _bring_up(self) -> None:
        for name in self.home.clear_leftovers():
            self._say(f"ended {name}, left by a stack that was killed")
        self.home.retract()  # of a killed one, too
        start_new_logs(self.home.logs)
        self._fresh_logs.set()
        secrets = self.home.secrets()
        port = self._api_port()
        urls = self._start_servers()
        env = parts.service_environment(
            self._env, self.home, urls=urls, signing_key=secrets.signing_key, port=port
        )
        model = None
        own_models = "REVERIE_MODELS_DIR" in self._env  # an operator's list: nothing is added
        if not own_models and not parts.base_model_stands(self.home.models):
            model = self._start(parts.make_base_model(self.home, env))
        self.api_key = prepare_database(urls["REVERIE_DATABASE_URL"], self.home)
        if model is not None:
            self._finish_model(model)
        self.url = env["REVERIE_API_URL"]
        api = self._start(parts.api(env, port))
        for spec in parts.workers(env, self.trainers):
            self._start(spec)
        self._wait(api, self._api_is_ready, _API_DEADLINE_S)
        facts = {"url": self.url, "api_key": self.api_key, "pid": os.getpid()}
        self.home.announce({**facts, "servers_dir": str(self._servers_dir())})

    def _api_port(self) -> int:
        if self._wanted_port is not None and not servers.is_free(self._wanted_port):
            raise StackError(
                f"port {self._wanted_port} is taken; leave --port away or name another"
            )
        if self._wanted_port is None and not servers.is_free(DEFAULT_PORT):
            return servers.free_port()
        return self._wanted_port or DEFAULT_PORT

    def _servers_dir(self) -> Path:
        return servers_folder(self.home.path, server_owner())

    def _start_servers(self) -> dict[str, str]:
        """The URLs of database and broker; a server is started for each that the caller has not."""
        makers = {
            "REVERIE_DATABASE_URL": servers.postgres,
            "REVERIE_BROKER_URL": servers.valkey,
        }
        urls = {name: self._env[name] for name in makers if self._env.get(name)}
        for name, make in makers.items():
            if name not in urls:
                urls[name] = self._start_server(make).url
        return urls

    def _start_server(self, make: Callable[..., Server]) -> Server:
        owner, secrets = server_owner(), self.home.secrets()
        folder = self._servers_dir()
        for tries_left in reversed(range(_PORT_TRIES)):
            server = make(folder, owner, secrets, servers.free_port())
            child = self._start(server.spec)
            try:
                self._wait(child, server.is_ready, _SERVER_DEADLINE_S)
            except ChildDiedError:
                # Someone may have taken the port between our look and the server's.
                if tries_left == 0:
                    raise
                self._servers.remove(child)
            else:
                return server
        raise AssertionError("unreachable: the last try returns or raises")

    def _start(self, spec: ChildSpec) -> Child:
        child = Child(spec, self.home)
        (self._servers if spec.is_server else self._processes).append(child)
        child.start()
        return child

    def _wait(self, child: Child, is_ready: Callable[[], bool], deadline_s: float) -> None:
        wait_ready(child, is_ready, deadline_s=deadline_s, stop_asked=self._stop.is_set)

    def _finish_model(self, model: Child) -> None:
        end_s = time.monotonic() + _MODEL_DEADLINE_S
        while model.exit_code() is None and time.monotonic() < end_s and not self._stop.is_set():
            model.wait(0.1)
        if model.exit_code() != 0:
            raise StackError(
                f"the base model was not made; see {model.log_file}:\n{model.last_lines()}"
            )
        self._processes.remove(model)
        self.home.forget(model.spec.name)

    def _api_is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
