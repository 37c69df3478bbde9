"""The start of the embedded service: servers, database, base model, Reverie's processes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from services.embedded import parts, servers
from services.embedded.account import Keys, prepare_database
from services.embedded.errors import EmbeddedError
from services.embedded.home import Home
from services.embedded.owner import server_owner, servers_folder
from services.embedded.servers import Server
from services.processes.errors import ChildDiedError, StopAskedError
from services.processes.supervised import ChildSpec, SupervisedChild
from services.processes.supervisor import stop_in_order, wait_ready
from services.settings.env import Settings

DEFAULT_PORT = 8484
_SERVER_DEADLINE_S: Final = 60.0
_API_DEADLINE_S: Final = 90.0
_MODEL_DEADLINE_S: Final = 180.0
_PORT_TRIES: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """The URL of the running service and the keys for it."""

    url: str
    keys: Keys


@dataclass(slots=True)
class Children:
    """The children that were started, to be stopped also after an incomplete start."""

    home: Home
    servers: list[SupervisedChild] = field(default_factory=list)
    processes: list[SupervisedChild] = field(default_factory=list)

    @property
    def all(self) -> list[SupervisedChild]:
        return [*self.servers, *self.processes]

    def start(self, spec: ChildSpec) -> SupervisedChild:
        child = SupervisedChild(spec, logs=self.home.logs, pids=self.home.pids)
        (self.servers if spec.is_server else self.processes).append(child)
        child.start()
        return child

    def longest_stop_s(self) -> float:
        """How long ``stop`` may take before the last child is killed."""
        return sum(child.spec.stop_s for child in self.all)

    def stop(self, *, force_asked: Callable[[], bool]) -> None:
        """Stop trainers first, for their checkpoint, and servers last. Leaves no process."""
        trainers = [c for c in self.processes if c.spec.name.startswith("trainer")]
        others = [c for c in self.processes if c not in trainers]
        stop_in_order([trainers, others, self.servers], force_asked=force_asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Startup:
    """A start in a locked home; started children are added to ``children``."""

    home: Home
    env: Mapping[str, str]
    """The caller's environment."""
    port: int | None
    """The API's port; None for 8484, or a free one if that is taken."""
    trainers: int
    children: Children
    stop_asked: Callable[[], bool]

    def run(self) -> Address:
        """Start everything; returns when the API is ready.

        Raises:
            EmbeddedError, ChildError: a part does not start; the message names its log.
            StopAskedError: the caller asked to stop meanwhile.
        """
        port = self._api_port()
        urls = self._start_servers()
        env = parts.service_environment(self.env, self.home, urls=urls, port=port)
        model = None
        own_models = (
            "REVERIE_MODELS_DIR" in self.env
        )  # the operator's own folder: no model is added
        if not own_models and not parts.has_base_model(self.home.models):
            model = self.children.start(parts.make_base_model(self.home, env))
        key_pepper = Settings.from_env(env).key_pepper
        keys = prepare_database(urls["REVERIE_DATABASE_URL"], self.home, key_pepper)
        if model is not None:
            self._finish_model(model)
        url = env["REVERIE_API_URL"]
        api = self.children.start(parts.api(env, port))
        for spec in parts.workers(env, self.trainers):
            self.children.start(spec)
        self._wait(api, lambda: _is_api_ready(url), _API_DEADLINE_S)
        return Address(url=url, keys=keys)

    def servers_dir(self) -> Path:
        return servers_folder(self.home.path, server_owner())

    def _api_port(self) -> int:
        if self.port is not None and not servers.is_free(self.port):
            raise EmbeddedError(f"port {self.port} is taken; omit --port or choose another")
        if self.port is None and not servers.is_free(DEFAULT_PORT):
            return servers.free_port()
        return self.port or DEFAULT_PORT

    def _start_servers(self) -> dict[str, str]:
        """The URLs of database and broker; starts a server for each that the caller did not set."""
        makers = {
            "REVERIE_DATABASE_URL": servers.postgres,
            "REVERIE_BROKER_URL": servers.valkey,
        }
        urls = {name: self.env[name] for name in makers if self.env.get(name)}
        for name, make in makers.items():
            if name not in urls:
                urls[name] = self._start_server(make).url
        return urls

    def _start_server(self, make: Callable[..., Server]) -> Server:
        owner, secrets = server_owner(), self.home.secrets()
        folder = self.servers_dir()
        for tries_left in reversed(range(_PORT_TRIES)):
            server = make(folder, owner, secrets, servers.free_port())
            child = self.children.start(server.spec)
            try:
                self._wait(child, server.is_ready, _SERVER_DEADLINE_S)
            except ChildDiedError:
                # Another program may have taken the port after we had found it free.
                if tries_left == 0:
                    raise
                self.children.servers.remove(child)
            else:
                return server
        raise AssertionError("unreachable: the last try returns or raises")

    def _wait(
        self, child: SupervisedChild, is_ready: Callable[[], bool], deadline_s: float
    ) -> None:
        wait_ready(child, is_ready, deadline_s=deadline_s, stop_asked=self.stop_asked)

    def _finish_model(self, model: SupervisedChild) -> None:
        end_s = time.monotonic() + _MODEL_DEADLINE_S
        while model.is_running and time.monotonic() < end_s:
            if self.stop_asked():
                raise StopAskedError("stopped before the base model was created")
            model.wait(0.1)
        if model.exit_status != 0:
            raise EmbeddedError(f"the base model could not be created; {model.log_in_words()}")
        self.children.processes.remove(model)
        model.forget()


def _is_api_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
