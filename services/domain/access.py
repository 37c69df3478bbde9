"""Who may do what: the roles of members, the scopes of API keys, and the key of a request."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Role = Literal["owner", "member", "viewer", "billing"]
Scope = Literal[
    "runs:read",
    "runs:write",
    "datasets:read",
    "datasets:write",
    "publications:read",
    "publications:write",
    "secrets:read",
    "secrets:write",
    "webhooks:read",
    "webhooks:write",
    "keys:read",
    "keys:write",
    "members:read",
    "members:write",
    "usage:read",
    "audit:read",
    "tenant:write",
]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
SCOPES_OF: Final[dict[Role, frozenset[Scope]]] = {
    "owner": frozenset(SCOPES),
    "member": frozenset(
        {
            "runs:read",
            "runs:write",
            "datasets:read",
            "datasets:write",
            "publications:read",
            "publications:write",
            "secrets:read",
            "webhooks:read",
            "webhooks:write",
            "keys:read",
            "keys:write",
            "members:read",
            "usage:read",
        }
    ),
    "viewer": frozenset(
        {"runs:read", "datasets:read", "publications:read", "members:read", "usage:read"}
    ),
    "billing": frozenset({"runs:read", "members:read", "usage:read"}),
}
"""What each role may do at most. A ``member`` sees and changes keys of its own only."""


def scopes_of(role: Role, listed: frozenset[str] | None) -> frozenset[Scope]:
    """What a key may do now: all of its member's role, or what of it the key lists."""
    of_role = SCOPES_OF[role]
    return of_role if listed is None else of_role & listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """The API key that a request was sent with, and the member for whom it acts."""

    tenant_id: str
    key_id: str
    member_id: str | None
    """None for a key of a version without members, which counts as an owner's."""
    role: Role
    """The member's now."""
    listed: frozenset[str] | None
    """The scopes that the key was made with; None: all that the role has."""

    @property
    def scopes(self) -> frozenset[Scope]:
        """What the key may do now."""
        return scopes_of(self.role, self.listed)

    @property
    def keys_of(self) -> str | None:
        """The member whose keys it sees and changes; None: those of every member."""
        return None if self.role == "owner" else self.member_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """The key of one of the people who run the service; it belongs to no tenant."""

    key_id: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteWorker:
    """The key of a worker that reaches the service over HTTPS only; it fixes what the worker is."""

    key_id: str
    worker_id: str
    gpu_class: str
    node: str
