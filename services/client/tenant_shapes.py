"""What a tenant sees of itself and of the service, as types."""

from typing import Any, Literal, NotRequired, TypedDict

from services.domain.access import Role, Scope

SecretKind = Literal["hub", "s3", "wandb"]


class Secret(TypedDict):
    """What is known of a secret; nobody can read its value."""

    id: str
    object: Literal["secret"]
    name: str
    kind: SecretKind
    version: int
    warning: str | None
    links: dict[str, str]
    created_at: str
    updated_at: str
    last_used_at: str | None


class Member(TypedDict):
    """Who acts for the tenant, with API keys of its own."""

    id: str
    object: Literal["member"]
    name: str
    role: Role
    links: dict[str, str]
    created_at: str


class MemberChanges(TypedDict, total=False):
    name: str
    role: Role


class ApiKeyRequest(TypedDict):
    name: str
    member_id: NotRequired[str | None]
    scopes: NotRequired[list[Scope] | None]
    expires_at: NotRequired[str | None]


class ApiKey(TypedDict):
    """An API key, without its secret."""

    id: str
    object: Literal["api_key"]
    name: str
    member_id: str | None
    scopes: list[str] | None
    """None: all that the member's role has."""
    expires_at: str | None
    last_used_at: str | None
    replaced_by: str | None
    links: dict[str, str]
    created_at: str


class NewApiKey(ApiKey):
    secret: str | None
    """None where the answer to the first try was lost: rotate the key."""


class ClassUsage(TypedDict):
    gpu_class: str
    charged_s: float
    cost_micros: int
    currency: str | None


class MonthUsage(TypedDict):
    """GPU time of a calendar month (UTC); its id is such as 2026-11."""

    id: str
    object: Literal["month_usage"]
    gpu_classes: list[ClassUsage]


class Quota(TypedDict):
    """A limit of the tenant; ``used`` is None for a quota of requests."""

    id: str
    object: Literal["quota"]
    limit: int | float
    used: int | float | None
    is_default: bool


class Deletion(TypedDict):
    """The deletion of a run, a dataset or a tenant."""

    id: str
    object: Literal["deletion"]
    kind: Literal["run", "dataset", "tenant"]
    target: str
    status: Literal["pending", "running", "succeeded"]
    waits_for: str | None
    report: dict[str, Any]
    """``rows`` by table, ``objects`` by folder, ``kept``, ``shared``, ``checked``."""
    links: dict[str, str]
    created_at: str
    finished_at: str | None


class OwnTenant(TypedDict):
    """The tenant of the client's key, with its limits."""

    id: str
    object: Literal["tenant"]
    name: str
    quotas: list[Quota]
    links: dict[str, str]
    created_at: str


class GpuType(TypedDict):
    """A kind of machine that trains; what is not known is None."""

    id: str
    """The ``gpu_class`` of runs."""
    object: Literal["gpu_type"]
    memory_bytes: int | None
    capability: str | None
    price_micros_per_hour: int | None
    currency: str | None
