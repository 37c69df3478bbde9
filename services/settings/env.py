"""The operator's settings, read once from the environment when a process starts.

Times are in seconds and sizes in bytes, as their names say. HF_TOKEN, HF_ENDPOINT and the standard
AWS_* variables are not here: the libraries that need them read them.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal, Self, cast
from urllib.parse import urlsplit

from services.domain.quotas import Quotas
from services.domain.retention import Retention
from services.settings.http_limits import HttpLimits, Network
from trainer_core.process.node_cache import NodeCache, NodeCacheSettingError, node_cache_of

LogFormat = Literal["console", "json"]
Environment = Literal["production", "test"]


class SettingsError(Exception):
    """A setting is missing or has a wrong value; the message names the variable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings with a default are fields; settings without one are properties that raise."""

    home: Path
    """REVERIE_HOME: models, publications and scratch are folders in it unless they are set."""
    models_dir: Path
    """REVERIE_MODELS_DIR: the operator's list of base models, one sub-folder each."""
    publications_dir: Path
    """REVERIE_PUBLICATIONS_DIR: where results of the target ``folder`` go."""
    scratch_dir: Path
    """REVERIE_SCRATCH_DIR: local disk for attempts; everything in it may be deleted."""
    scratch_bytes: int = 8 << 30
    """REVERIE_SCRATCH_BYTES: most bytes that one attempt keeps on disk: shards and checkpoints."""
    node_cache: NodeCache | None = None
    """REVERIE_NODE_CACHE_DIR: local disk for what a run can make again, such as compiled kernels.
    REVERIE_NODE_CACHE_BYTES: most bytes of 8-bit weights. None where the first is ``off``."""
    api_url: str = "http://127.0.0.1:8484"
    """REVERIE_API_URL: the public base URL, without a slash at its end."""
    api_processes: int = 2
    """REVERIE_API_PROCESSES: processes of the API that share its port."""
    http: HttpLimits = field(default_factory=HttpLimits)
    """What a client may take of the API; the fields name their variables."""
    gpu_class: str = "cpu"
    """REVERIE_GPU_CLASS: the GPU class of this worker, and of every new run. Except in the class
    ``cpu`` nothing is trained without a GPU."""
    node: str = field(default_factory=socket.gethostname)
    """REVERIE_NODE: the machine of this worker, by default its host name. Workers of one machine
    share what it keeps of base models."""
    lease_s: float = 60
    """REVERIE_LEASE_S: a run whose worker does not renew for this long is queued again."""
    renew_s: float = 15
    """REVERIE_RENEW_S: time between renewals; at most a third of the lease."""
    heartbeat_s: float = 10
    """REVERIE_HEARTBEAT_S: time between a worker's heartbeats."""
    offer_s: float = 10
    """REVERIE_OFFER_S: a run that was offered and not claimed is offered again after this."""
    poll_s: float = 1
    """REVERIE_POLL_S: how often the dispatcher looks for work without a notification."""
    stall_s: float = 600
    """REVERIE_STALL_S: a training process without an event, or without a step, for this long is
    killed."""
    start_stall_s: float = 1800
    """REVERIE_START_STALL_S: the same before its first step, while it loads and compiles."""
    orphan_s: float = 900
    """REVERIE_ORPHAN_S: a worker that cannot renew its lease for this long stops its run."""
    cancel_s: float = 35
    """REVERIE_CANCEL_S: a canceled run may use so long for its last checkpoint."""
    max_attempts: int = 5
    """REVERIE_MAX_ATTEMPTS: a run's own failures without a new checkpoint before it fails."""
    max_infra_failures: int = 20
    """REVERIE_MAX_INFRA_FAILURES: failed attempts of any kind without a new checkpoint before a run
    fails; most of them are the service's faults."""
    quotas: Quotas = field(default_factory=Quotas)
    """Each tenant's quotas, unless `reverie admin quota set` gave it others."""
    metrics_port: int = 0
    """REVERIE_METRICS_PORT: where this process serves its metrics; 0: nowhere. Processes of one
    machine need a port each."""
    metrics_host: str = "127.0.0.1"
    """REVERIE_METRICS_HOST: the address that this port is bound to."""
    otlp_endpoint: str | None = None
    """REVERIE_OTLP_ENDPOINT: base URL of an OTLP receiver (HTTP, protobuf), to which this process
    sends its part of each run's trace. None: tracing is off."""
    wandb_url: str | None = None
    """REVERIE_WANDB_URL: base URL of a self-hosted Weights & Biases, to which the results process
    relays metrics of runs. None: the public one."""
    share_half_life_s: float = 7 * 86_400
    """REVERIE_SHARE_HALF_LIFE_S: GPU time that was used this long ago counts half in a tenant's
    share."""
    streams_per_tenant: int = 500
    """REVERIE_STREAMS_PER_TENANT: event streams of one tenant that a process of the API serves."""
    aging_s: float = 6 * 3600
    """REVERIE_AGING_S: a run that waits for this long goes like one of the next higher priority."""
    upload_expires_s: float = 7 * 86_400
    """REVERIE_UPLOAD_EXPIRES_S: a dataset that is not completed, and whose upload addresses nobody
    has asked for in this time, is rejected and its files are deleted; at least two hours."""
    retention: Retention = field(default_factory=Retention)
    """How long things are kept, by age; the fields name their variables."""
    webhook_networks: tuple[Network, ...] = ()
    """REVERIE_WEBHOOK_NETWORKS: networks by comma that webhooks may reach besides the public
    internet, also over http. For the API and for the results process."""
    import_networks: tuple[Network, ...] = ()
    """REVERIE_IMPORT_NETWORKS: networks by comma that imported lists may lead to besides the public
    internet. For the cache builder."""
    log_format: LogFormat = "console"
    """REVERIE_LOG_FORMAT."""
    single_tenant: bool = False
    """REVERIE_SINGLE_TENANT: the service has one tenant, its operator. A run may then publish to
    the Hub with the service's own token; otherwise it needs a secret of its tenant."""
    environment: Environment = "production"
    """REVERIE_ENV: ``test`` allows fault points."""
    _given: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Settings without a default, as given; may hold credentials."""

    def __post_init__(self) -> None:
        if self.renew_s * 3 > self.lease_s:
            raise SettingsError(
                f"REVERIE_RENEW_S is {self.renew_s:g}: more than a third of REVERIE_LEASE_S "
                f"({self.lease_s:g}), so two lost renewals would end the attempt"
            )
        if self.poll_s * 6 > self.lease_s:
            raise SettingsError(
                f"REVERIE_POLL_S is {self.poll_s:g}: more than a sixth of REVERIE_LEASE_S "
                f"({self.lease_s:g}), so the dispatcher could not tell a pause from a fault"
            )
        if self.upload_expires_s < _LEAST_UPLOAD_EXPIRES_S:
            raise SettingsError(
                f"REVERIE_UPLOAD_EXPIRES_S is {self.upload_expires_s:g}: less than "
                f"{_LEAST_UPLOAD_EXPIRES_S}, so an upload could expire while it goes on"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the REVERIE_* variables; an empty one counts as not set. Raises SettingsError."""
        given = {k: value for k, value in env.items() if k.startswith("REVERIE_") and value}
        home = Path(given.get("REVERIE_HOME", "~/.reverie")).expanduser()
        return cls(
            home=home,
            models_dir=Path(given.get("REVERIE_MODELS_DIR", home / "models")),
            publications_dir=Path(given.get("REVERIE_PUBLICATIONS_DIR", home / "publications")),
            scratch_dir=Path(given.get("REVERIE_SCRATCH_DIR", home / "scratch")),
            scratch_bytes=int(_number(given, "REVERIE_SCRATCH_BYTES", 8 << 30)),
            node_cache=_node_cache(given),
            api_url=given.get("REVERIE_API_URL", "http://127.0.0.1:8484").rstrip("/"),
            api_processes=_count(given, "REVERIE_API_PROCESSES", 2),
            http=_http_limits(given),
            gpu_class=given.get("REVERIE_GPU_CLASS", "cpu"),
            node=given.get("REVERIE_NODE", socket.gethostname()),
            lease_s=_number(given, "REVERIE_LEASE_S", 60),
            renew_s=_number(given, "REVERIE_RENEW_S", 15),
            heartbeat_s=_number(given, "REVERIE_HEARTBEAT_S", 10),
            offer_s=_number(given, "REVERIE_OFFER_S", 10),
            poll_s=_number(given, "REVERIE_POLL_S", 1),
            stall_s=_number(given, "REVERIE_STALL_S", 600),
            start_stall_s=_number(given, "REVERIE_START_STALL_S", 1800),
            orphan_s=_number(given, "REVERIE_ORPHAN_S", 900),
            cancel_s=_number(given, "REVERIE_CANCEL_S", 35),
            max_attempts=int(_number(given, "REVERIE_MAX_ATTEMPTS", 5)),
            max_infra_failures=int(_number(given, "REVERIE_MAX_INFRA_FAILURES", 20)),
            quotas=_quotas(given),
            streams_per_tenant=int(_number(given, "REVERIE_STREAMS_PER_TENANT", 500)),
            metrics_port=_port(given, "REVERIE_METRICS_PORT"),
            metrics_host=given.get("REVERIE_METRICS_HOST", "127.0.0.1"),
            otlp_endpoint=_otlp_endpoint(given),
            wandb_url=_wandb_url(given),
            share_half_life_s=_number(given, "REVERIE_SHARE_HALF_LIFE_S", 7 * 86_400),
            aging_s=_number(given, "REVERIE_AGING_S", 6 * 3600),
            upload_expires_s=_number(given, "REVERIE_UPLOAD_EXPIRES_S", 7 * 86_400),
            retention=_retention(given),
            webhook_networks=_networks(given, "REVERIE_WEBHOOK_NETWORKS"),
            import_networks=_networks(given, "REVERIE_IMPORT_NETWORKS"),
            log_format=cast(LogFormat, _one_of(given, "REVERIE_LOG_FORMAT", ("console", "json"))),
            single_tenant=_one_of(given, "REVERIE_SINGLE_TENANT", ("false", "true")) == "true",
            environment=cast(Environment, _one_of(given, "REVERIE_ENV", ("production", "test"))),
            _given={name: given[name] for name in _WITHOUT_DEFAULT if name in given},
        )

    @property
    def needs_gpu(self) -> bool:
        """Whether runs of this GPU class are trained on a GPU, never on a CPU instead."""
        return self.gpu_class != "cpu"

    @property
    def database_url(self) -> str:
        """REVERIE_DATABASE_URL, such as ``postgresql://user:password@host:5432/reverie``."""
        return self._required("REVERIE_DATABASE_URL")

    @property
    def broker_url(self) -> str:
        """REVERIE_BROKER_URL, such as ``redis://host:6379/0``."""
        return self._required("REVERIE_BROKER_URL")

    @property
    def objects_url(self) -> str:
        """REVERIE_OBJECTS_URL: ``file:///folder`` or ``s3://bucket?endpoint=…&region=…``."""
        return self._required("REVERIE_OBJECTS_URL")

    @property
    def signing_key(self) -> bytes:
        """REVERIE_SIGNING_KEY, given in hex, at least 128 bits: signs URLs of the folder store."""
        return self._hex("REVERIE_SIGNING_KEY")

    @property
    def key_pepper(self) -> bytes:
        """REVERIE_KEY_PEPPER, given in hex, at least 128 bits: API keys are stored as HMACs with
        it, so with another one no key is valid. For the API and for the migration."""
        return self._hex("REVERIE_KEY_PEPPER")

    @property
    def worker_key(self) -> str:
        """REVERIE_WORKER_KEY_FILE, a file with the key of this worker, or REVERIE_WORKER_KEY.

        For `reverie worker --join` only. `reverie admin worker-keys create` makes it.
        """
        file = self._given.get("REVERIE_WORKER_KEY_FILE")
        key = self._given.get("REVERIE_WORKER_KEY")
        if file is None and key is None:
            message = (
                "REVERIE_WORKER_KEY_FILE is not set, and neither is REVERIE_WORKER_KEY. An "
                "operator of the service makes the key (docs/how-to/rent-a-machine.md)."
            )
            raise SettingsError(message)
        if file is None:
            return str(key)
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"REVERIE_WORKER_KEY_FILE cannot be read: {error}") from None

    def _hex(self, name: str) -> bytes:
        try:
            key = bytes.fromhex(self._required(name))
        except ValueError:
            raise SettingsError(f"{name} is not hex") from None
        if len(key) < 16:
            raise SettingsError(f"{name} has fewer than 32 hex digits")
        return key

    @property
    def secrets_public_key(self) -> str | None:
        """REVERIE_SECRETS_PUBLIC_KEY: for the API only, which seals tenants' secrets with it.

        `reverie admin new-secrets-key` makes it. None: the API takes no secrets.
        """
        return self._given.get("REVERIE_SECRETS_PUBLIC_KEY")

    @property
    def secrets_private_keys(self) -> str | None:
        """REVERIE_SECRETS_PRIVATE_KEYS: for the results process only, which opens the secrets.

        Several by comma, the newest first. None: it can open none.
        """
        return self._given.get("REVERIE_SECRETS_PRIVATE_KEYS")

    def _required(self, name: str) -> str:
        try:
            return self._given[name]
        except KeyError:
            raise SettingsError(f"{name} is not set") from None


_LEAST_UPLOAD_EXPIRES_S: Final = 7200
"""Who goes on with an upload is noted once an hour, and its addresses work for an hour."""
_WITHOUT_DEFAULT: Final = (
    "REVERIE_DATABASE_URL",
    "REVERIE_BROKER_URL",
    "REVERIE_OBJECTS_URL",
    "REVERIE_SIGNING_KEY",
    "REVERIE_KEY_PEPPER",
    "REVERIE_WORKER_KEY",
    "REVERIE_WORKER_KEY_FILE",
    "REVERIE_SECRETS_PUBLIC_KEY",
    "REVERIE_SECRETS_PRIVATE_KEYS",
)


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name} is not a number: {text}") from None
    if not 0 < value < float("inf"):
        raise SettingsError(f"{name} has to be above zero: {text}")
    return value


def _quotas(given: Mapping[str, str]) -> Quotas:
    default = Quotas()
    return Quotas(
        queued_runs=_count(given, "REVERIE_QUOTA_QUEUED_RUNS", default.queued_runs),
        concurrent_runs=_count(given, "REVERIE_QUOTA_CONCURRENT_RUNS", default.concurrent_runs),
        gpu_hours=_number(given, "REVERIE_QUOTA_GPU_HOURS", default.gpu_hours),
        storage_bytes=_count(given, "REVERIE_QUOTA_STORAGE_BYTES", default.storage_bytes),
        uploads=_count(given, "REVERIE_QUOTA_UPLOADS", default.uploads),
        requests_per_minute=_count(
            given, "REVERIE_QUOTA_REQUESTS_PER_MINUTE", default.requests_per_minute
        ),
    )


def _retention(given: Mapping[str, str]) -> Retention:
    default = Retention()
    return Retention(
        events_days=_number(given, "REVERIE_RETAIN_EVENTS_DAYS", default.events_days),
        cache_days=_number(given, "REVERIE_RETAIN_CACHE_DAYS", default.cache_days),
        audit_days=_number(given, "REVERIE_RETAIN_AUDIT_DAYS", default.audit_days),
    )


def _port(given: Mapping[str, str], name: str) -> int:
    """The port number; 0 where it is not set."""
    text = given.get(name, "0")
    if not text.isdecimal() or int(text) > 65535:
        raise SettingsError(f"{name} is {text}; it has to be a port, or 0 for none")
    return int(text)


def _base_url(given: Mapping[str, str], name: str, *, form: str) -> str | None:
    url = given.get(name)
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise SettingsError(f"{name} is not the base URL of a server: write {form}")
    return url


def _wandb_url(given: Mapping[str, str]) -> str | None:
    url = _base_url(given, "REVERIE_WANDB_URL", form="https://host, without a password")
    return None if url is None else url.rstrip("/")


def _otlp_endpoint(given: Mapping[str, str]) -> str | None:
    form = "http://host:4318, and put a password into OTEL_EXPORTER_OTLP_HEADERS"
    return _base_url(given, "REVERIE_OTLP_ENDPOINT", form=form)


def _count(given: Mapping[str, str], name: str, default: int) -> int:
    """A whole number, 1 or more."""
    number = _number(given, name, default)
    if number != int(number):
        raise SettingsError(f"{name} is not a whole number: {given[name]}")
    return int(number)


def _node_cache(given: Mapping[str, str]) -> NodeCache | None:
    try:
        return node_cache_of(given)
    except NodeCacheSettingError as error:
        raise SettingsError(error.message) from None


def _http_limits(given: Mapping[str, str]) -> HttpLimits:
    default = HttpLimits()
    return HttpLimits(
        header_s=_number(given, "REVERIE_HTTP_HEADER_S", default.header_s),
        body_s=_number(given, "REVERIE_HTTP_BODY_S", default.body_s),
        whole_body_s=_number(given, "REVERIE_HTTP_WHOLE_BODY_S", default.whole_body_s),
        write_s=_number(given, "REVERIE_HTTP_WRITE_S", default.write_s),
        keep_alive_s=_number(given, "REVERIE_HTTP_KEEP_ALIVE_S", default.keep_alive_s),
        connections=_count(given, "REVERIE_HTTP_CONNECTIONS", default.connections),
        connections_per_client=_count(
            given, "REVERIE_HTTP_CONNECTIONS_PER_CLIENT", default.connections_per_client
        ),
        trusted_proxies=_networks(given, "REVERIE_TRUSTED_PROXIES"),
    )


def _networks(given: Mapping[str, str], name: str) -> tuple[Network, ...]:
    try:
        texts = (each.strip() for each in given.get(name, "").split(","))
        return tuple(ip_network(text) for text in texts if text)
    except ValueError as error:
        raise SettingsError(f"{name} names no network: {error}") from None


def _one_of(given: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """The value, or the first allowed one where it is not set."""
    value = given.get(name, allowed[0])
    if value not in allowed:
        raise SettingsError(f"{name} is {value}; it can be {' or '.join(allowed)}")
    return value
