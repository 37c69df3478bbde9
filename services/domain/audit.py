"""The audit log: who did what, in a chain in which every event holds the hash of the one before."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

FIRST_HASH_BEFORE: Final = "0" * 64
"""In the place of a hash before the first event."""

Facts: TypeAlias = Mapping[str, str | int | bool | Sequence[str] | None]
"""What an event says of its action. No floats: JSON has several forms of the same one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who does something, and from where."""

    kind: Literal["key", "operator", "service"]
    id: str
    """Of the key; for ``service`` the name of the process."""
    member_id: str | None = None
    """For whom the key acts."""
    client: str = ""
    """Address that the request came from; empty where there was none."""

    def as_json(self) -> dict[str, str]:
        """What an event keeps as its ``actor``."""
        member = {} if self.member_id is None else {"member_id": self.member_id}
        return {"kind": self.kind, "id": self.id, **member}


RESULTS: Final = Author(kind="service", id="results")
OPERATOR_AT_DATABASE: Final = Author(kind="operator", id="database")
"""Whoever runs `reverie admin` or `reverie up`, with the database's password and without a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEvent:
    """One row of ``audit_events``."""

    tenant_id: str
    seq: int
    """From 1, without gaps."""
    created_at: datetime
    actor: dict[str, Any]
    action: str
    """Such as ``run.canceled``."""
    target: str
    """The id that it was done to."""
    client: str
    data: dict[str, Any]
    hash_before: str
    hash: str


def content_of(
    *,
    tenant_id: str,
    actor: Mapping[str, Any],
    action: str,
    target: str,
    client: str,
    data: Mapping[str, Any],
) -> str:
    """What an event says: JSON with sorted names and without spaces."""
    facts = {
        "tenant_id": tenant_id,
        "actor": dict(actor),
        "action": action,
        "target": target,
        "client": client,
        "data": dict(data),
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(content: str) -> str:
    """SHA-256, in hex, of the content in UTF-8."""
    return hashlib.sha256(content.encode()).hexdigest()


def hash_of(event: AuditEvent) -> str:
    """SHA-256, in hex, of the hash before, number, time and hash of the content, with spaces.

    The time is in UTC with microseconds, such as ``2030-01-31T12:00:00.000000+00:00``. The
    database computes the same when it appends the event, because only then the others are known.
    """
    content = content_of(
        tenant_id=event.tenant_id,
        actor=event.actor,
        action=event.action,
        target=event.target,
        client=event.client,
        data=event.data,
    )
    at = event.created_at.astimezone(UTC).isoformat(timespec="microseconds")
    link = f"{event.hash_before} {event.seq} {at} {content_hash(content)}"
    return hashlib.sha256(link.encode()).hexdigest()
