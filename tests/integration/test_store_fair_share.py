"""Tenants share the workers by weight, whatever they queue: thousands of runs on four workers."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import pytest

from services.domain.fair_share import HALF_LIFE
from services.store import usage
from services.store.database import Database
from tests.support.fair_queue import Dispatch, FairQueue

WORKERS = 4
EQUAL = (1.0, 1.0)
UNEQUAL = (0.5, 1.5)
"""Of every other tenant; the mean is 1."""
Queue: TypeAlias = tuple[int, int, tuple[float, float]]
"""Number of tenants, of runs, and the weights of every other tenant."""
_WHOLE = [
    pytest.param(
        (100, 10_000, weights), id=f"10,000 runs, weights {weights}", marks=pytest.mark.deep
    )
    for weights in (EQUAL, UNEQUAL)
]


def a_queue(
    database: Database, size: Queue, length_s: Callable[[str], float]
) -> tuple[FairQueue, dict[str, float]]:
    """The queue, and the weight of each tenant in it."""
    num_tenants, num_runs, weights = size
    queue = FairQueue(database=database, length_s=length_s)
    queue.add_workers(WORKERS)
    weight_of: dict[str, float] = {}
    for number in range(num_tenants):
        weight = weights[number % 2]
        runs = round(num_runs / num_tenants * weight)
        weight_of[queue.add_tenant(runs=runs, weight=weight)] = weight
    return queue, weight_of


def share_error(dispatched: Sequence[Dispatch], weight_of: Mapping[str, float]) -> float:
    """The largest |share - weight| / weight of a tenant's GPU time among these runs."""
    used_s = dict.fromkeys(weight_of, 0.0)
    for each in dispatched:
        used_s[each.tenant_id] += each.length_s
    fair_s = sum(used_s.values()) / sum(weight_of.values())  # for a weight of 1
    return max(abs(used_s[id_] / (fair_s * weight) - 1) for id_, weight in weight_of.items())


@pytest.mark.parametrize("size", [pytest.param((10, 200, UNEQUAL), id="200 runs"), *_WHOLE])
def test_gpu_time_follows_the_weights(database: Database, size: Queue) -> None:
    """In each window of ten runs a tenant, and a newcomer does not wait behind the others."""
    queue, weight_of = a_queue(database, size, lambda _: 60.0)
    num_tenants, num_runs, _ = size
    window = num_tenants * 10
    errors = [share_error(queue.dispatch(window), weight_of) for _ in range(num_runs // window - 1)]
    print(f"largest error of a window: {max(errors):.2%}")
    assert max(errors) < 0.05

    newcomer = queue.add_tenant(runs=1)
    assert newcomer in {each.tenant_id for each in queue.dispatch(WORKERS)}


@pytest.mark.parametrize("size", [pytest.param((10, 200, EQUAL), id="200 runs"), *_WHOLE])
def test_runs_of_all_lengths_are_shared_to_within_a_run(database: Database, size: Queue) -> None:
    """A run is not divided, so the error of a tenant's time is that of one run, however many."""
    lengths = random.Random(7)
    shortest_s, longest_s = 30.0, 90.0
    queue, weight_of = a_queue(database, size, lambda _: lengths.uniform(shortest_s, longest_s))
    num_tenants, num_runs, weights = size
    window = num_tenants * 10
    dispatched: list[Dispatch] = []
    for number in range(1, num_runs // window):
        dispatched += queue.dispatch(window)
        error = share_error(dispatched, weight_of)
        print(f"error after {len(dispatched)} runs: {error:.2%}")
        smallest_s = sum(each.length_s for each in dispatched) / num_tenants * min(weights)
        assert error < 1.5 * longest_s / smallest_s, number
    if len(dispatched) >= 50 * num_tenants:
        assert error < 0.05


def test_a_tenant_that_was_away_does_not_take_the_workers_for_long(database: Database) -> None:
    """One that never trained comes to three that have trained 1,000 hours each."""
    hour_s = 3600.0
    queue = FairQueue(database=database, length_s=lambda _: hour_s)
    queue.add_workers(WORKERS)
    old = [queue.add_tenant(runs=20) for _ in range(3)]
    queue.dispatch(2 * WORKERS)
    with database.transaction() as conn:
        conn.execute("UPDATE tenant_usage SET decayed_s = decayed_s + %s", (1000 * hour_s,))

    newcomer = queue.add_tenant(runs=40)
    started = [each.tenant_id for each in queue.dispatch(8 * WORKERS)]

    assert started[0] == newcomer
    fair = len(started) / (1 + len(old))
    assert abs(started.count(newcomer) - fair) <= 3  # the head start is one run of an hour

    with database.transaction() as conn:  # nobody has runs left, and the use of all but one fades
        conn.execute("UPDATE runs SET status = 'canceled', stage = NULL WHERE stage = 'capacity'")
    while queue.running:
        queue.end_next()
    with database.transaction() as conn:
        assert usage.shares(conn, "cpu", half_life=HALF_LIFE) == []
        conn.execute(
            "UPDATE tenant_usage SET decayed_s = 0, decayed_at = decayed_at - interval '1 hour'"
            " WHERE tenant_id <> %s",
            (old[0],),
        )
    last = queue.add_tenant(runs=40)
    assert {each.tenant_id for each in queue.dispatch(WORKERS)} == {last}  # alone
    queue.add_runs(old[0], 40)
    started = [each.tenant_id for each in queue.dispatch(5 * WORKERS)]
    assert started.count(old[0]) >= 6
