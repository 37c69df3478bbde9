"""Checking an audit log: events, anchors and losses come in, what does not fit comes out.

Pure.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from services.domain.audit import FIRST_HASH_BEFORE, AuditEvent, Facts, hash_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """What the object store remembers of a chain: its newest event at some time."""

    seq: int
    hash: str


RESTORED: Final = "audit.restored"
"""The action of an event that acknowledges a loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Events that are lost since a backup was restored. Others have their numbers, or will."""

    first_seq: int
    """The event before is there, as an anchor shows. This one may be: nothing outside knows it."""
    last_seq: int
    """The newest of which an anchor knows."""
    anchors: tuple[Anchor, ...]
    """Of events that are lost."""

    def as_facts(self) -> Facts:
        """What the event that acknowledges it says."""
        anchors = [f"{anchor.seq}-{anchor.hash}" for anchor in self.anchors]
        return {"first_seq": self.first_seq, "last_seq": self.last_seq, "anchors": anchors}


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """A loss, and the event that acknowledges it."""

    loss: Loss
    seq: int
    created_at: datetime


def acknowledged(event: AuditEvent) -> Acknowledged:
    """What an event with the action ``RESTORED`` says."""
    anchors = [anchor.partition("-") for anchor in event.data["anchors"]]
    loss = Loss(
        first_seq=event.data["first_seq"],
        last_seq=event.data["last_seq"],
        anchors=tuple(Anchor(seq=int(seq), hash=hash_) for seq, _, hash_ in anchors),
    )
    return Acknowledged(loss=loss, seq=event.seq, created_at=event.created_at)


def counting(anchors: Iterable[Anchor], losses: Iterable[Acknowledged]) -> list[Anchor]:
    """The anchors whose events are not acknowledged as lost."""
    lost = {anchor for each in losses for anchor in each.loss.anchors}
    return [anchor for anchor in anchors if anchor not in lost]


def loss_of(anchors: Iterable[Anchor], hashes: Mapping[int, str], *, first_seq: int) -> Loss | None:
    """What is lost of a log: anchored events that are not there, or are others now.

    Args:
        anchors: without those of losses that are acknowledged.
        hashes: number → hash of the events that have the number of an anchor.
        first_seq: of the log's first event. Anchors before it are of events that were deleted by
            their age.
    """
    here = [anchor for anchor in anchors if anchor.seq >= first_seq]
    lost = tuple(anchor for anchor in here if hashes.get(anchor.seq) != anchor.hash)
    if not lost:
        return None
    seqs = [anchor.seq for anchor in lost]
    kept = (anchor.seq for anchor in here if anchor not in lost and anchor.seq < min(seqs))
    first_lost = max(kept, default=first_seq - 1) + 1
    return Loss(first_seq=first_lost, last_seq=max(seqs), anchors=lost)


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
    before: Link | None,
    events: Iterable[AuditEvent],
    anchors: Iterable[Anchor],
    beginnings: Collection[Anchor] = (),
) -> Misfit | None:
    """The first of these events, in the order of their numbers, that does not fit.

    Args:
        before: the event before them; None for the first events of the chain.
        anchors: of the whole chain, those that count.
        beginnings: with which the chain may begin after number 1, because older events were deleted
            by their age.
    """
    anchored: defaultdict[int, set[str]] = defaultdict(set)
    for anchor in anchors:
        anchored[anchor.seq].add(anchor.hash)
    for event in events:
        if before is None:
            before = _start(event, beginnings)
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


def _start(first: AuditEvent, beginnings: Collection[Anchor]) -> Link:
    if Anchor(seq=first.seq, hash=first.hash) in beginnings:
        return Link(seq=first.seq - 1, hash=first.hash_before)
    return START


def _misfit(before: Link, event: AuditEvent, anchored: Mapping[int, Set[str]]) -> Misfit | None:
    expected = before.seq + 1
    if event.seq != expected:
        return missing(expected)
    if hash_of(event) != event.hash:
        message = f"The event {event.seq} was changed: its hash is not that of its content."
        return Misfit(seq=event.seq, kind="edited", message=message)
    if event.hash_before != before.hash:
        message = f"The event {event.seq} does not follow the event {before.seq}."
        return Misfit(seq=event.seq, kind="reordered", message=message)
    if anchored.get(event.seq, {event.hash}) != {event.hash}:
        message = (
            f"The event {event.seq}, or one before it, was replaced: its hash is not the one that "
            "was anchored in the object store."
        )
        return Misfit(seq=event.seq, kind="rewritten", message=message)
    return None
