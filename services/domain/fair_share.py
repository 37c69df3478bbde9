"""Fair shares: which tenant's run goes next on a free worker. Pure."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

HALF_LIFE: Final = timedelta(days=7)
"""Seconds of use that are this old count half."""
AGING: Final = timedelta(hours=6)
"""A run that has waited for this long goes like one of the next higher priority."""
HEAD_START_S: Final = 3600.0
"""Use, for a weight of 1, by which a tenant that comes back may be below the others."""
UNKNOWN_RUN_S: Final = 60.0
"""Expected length of a run while no run of its GPU class has ended."""

Taken = TypeVar("Taken")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A tenant's use of one GPU class."""

    tenant_id: str
    weight: float
    """A tenant of weight 2 gets twice the GPU time of one of weight 1 while both have runs."""
    used_s: float
    """Decayed seconds of use, and the expected rest of the runs that it holds or is offered."""
    run_s: float
    """Expected length of its next run."""
    is_waiting: bool
    """It has a run to offer now. The others hold runs, or their runs wait for another reason."""
    is_new: bool
    """In the round before it had no run that waited or was held."""


def limit_credit(shares: Sequence[Share], *, last_use: float) -> list[Share]:
    """Raise the use of new tenants to a little below the lowest use of the others.

    The use of a tenant that was away has faded, or there was none. Without a limit it would take
    all workers until it has caught up with the others, which have worked for weeks perhaps.

    Args:
        last_use: use for its weight of the tenant that was charged last; counts where all are new.
    """
    others = (share.used_s / share.weight for share in shares if not share.is_new)
    least = min(others, default=last_use) - HEAD_START_S
    return [
        replace(share, used_s=max(share.used_s, least * share.weight)) if share.is_new else share
        for share in shares
    ]


def take_turns(
    shares: Iterable[Share], limit: int, take: Callable[[str], Taken | None]
) -> list[Taken]:
    """Give up to ``limit`` turns, each to the waiting tenant with the smallest use for its weight.

    A turn counts as a run of the expected length, so that many turns at once are spread as single
    ones would be. Of tenants with equal use the first in the order of ids goes first.

    Args:
        take: takes a run of the tenant with this id; None where it has none left.
    """
    line = [
        (share.used_s / share.weight, share.tenant_id, share)
        for share in shares
        if share.is_waiting
    ]
    heapq.heapify(line)
    taken: list[Taken] = []
    while line and len(taken) < limit:
        key, tenant_id, share = line[0]
        result = take(tenant_id)
        if result is None:
            heapq.heappop(line)
        else:
            taken.append(result)
            heapq.heapreplace(line, (key + share.run_s / share.weight, tenant_id, share))
    return taken
