"""The audit log: who did what, in a chain in which every event holds the hash of the one before.

Pure: events and anchors come in, what does not fit comes out.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
"""Whoever runs `reverie admin`, which needs the password of the database and no key."""


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


def hash_of(event: AuditEvent) -> str:
    """SHA-256, in hex, of everything else in the event.

    It is taken of JSON with sorted names and without spaces, in UTF-8. ``created_at`` is in UTC
    with microseconds, such as ``2030-01-31T12:00:00.000000+00:00``.
    """
    facts = asdict(event)
    del facts["hash"]
    facts["created_at"] = event.created_at.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """What the object store remembers of a chain: its newest event at some time."""

    seq: int
    hash: str


Kind = Literal["edited", "removed", "reordered", "rewritten", "truncated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """The first event that does not fit into its chain."""

    seq: int
    kind: Kind
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What the next event has to follow."""

    seq: int
    hash: str


START: Final = Link(seq=0, hash=FIRST_HASH_BEFORE)


def first_misfit(
    before: Link | None, events: Iterable[AuditEvent], anchors: Iterable[Anchor]
) -> Misfit | None:
    """The first of these events, in the order of their numbers, that does not fit.

    Args:
        before: the event before them; None for the first events of the chain. Those may begin
            after number 1 where older ones were deleted by their age: at an anchored event.
        anchors: of the whole chain.
    """
    anchored = {anchor.seq: anchor.hash for anchor in anchors}
    for event in events:
        if before is None:
            before = _start(event, anchored)
        if misfit := _misfit(before, event, anchored):
            return misfit
        before = Link(seq=event.seq, hash=event.hash)
    return None


def missing(seq: int) -> Misfit:
    """The event of this number is not there."""
    return Misfit(seq=seq, kind="removed", message=f"The event {seq} is missing.")


def missing_end(last_seq: int, anchors: Iterable[Anchor]) -> Misfit | None:
    """What is missing after the last event of a chain, as far as an anchor says so."""
    newest = max(anchors, key=lambda anchor: anchor.seq, default=None)
    if newest is None or newest.seq <= last_seq:
        return None
    message = (
        f"The events {last_seq + 1} to {newest.seq} are missing: an anchor in the object store has "
        "the last one's hash."
    )
    return Misfit(seq=last_seq + 1, kind="truncated", message=message)


def _start(first: AuditEvent, anchored: Mapping[int, str]) -> Link:
    if first.seq in anchored:
        return Link(seq=first.seq - 1, hash=first.hash_before)
    return START


def _misfit(before: Link, event: AuditEvent, anchored: Mapping[int, str]) -> Misfit | None:
    expected = before.seq + 1
    if event.seq != expected:
        return missing(expected)
    if hash_of(event) != event.hash:
        message = f"The event {event.seq} was changed: its hash is not that of its content."
        return Misfit(seq=event.seq, kind="edited", message=message)
    if event.hash_before != before.hash:
        message = f"The event {event.seq} does not follow the event {before.seq}."
        return Misfit(seq=event.seq, kind="reordered", message=message)
    if anchored.get(event.seq, event.hash) != event.hash:
        message = (
            f"The event {event.seq}, or one before it, was replaced: its hash is not the one that "
            "was anchored in the object store."
        )
        return Misfit(seq=event.seq, kind="rewritten", message=message)
    return None
