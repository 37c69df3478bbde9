"""Estimates against what happened: real training of the tiny model in varied sizes and lengths.

Some runs are trained to be measured. Then the estimates of all others are asked for, before the
first of these is trained: so none of them rests on a run that it is compared with. An estimate is
compared with the time from the claim of its run to the result.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest

from tests.support.fleet import Fleet
from tests.support.service import new_tenant, small_photos, small_run_request
from tests.support.tenant import Json, Tenant

MEASURED = 16
COMPARED = 20
SIZES_PX = (64, 96, 128)
SEED = 2027


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run: what was foretold, and what happened."""

    what: str
    likeness: str
    p50_s: float
    p90_s: float
    actual_s: float

    @property
    def ratio(self) -> float:
        return self.actual_s / self.p50_s


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of()
    fleet.start_all(trainers=1)
    return fleet


def sized_request(datasets: dict[str, str], draw: random.Random) -> tuple[str, Json]:
    """A run of a drawn size and length, in words and as a request."""
    size, batch = draw.choice(SIZES_PX), draw.choice((1, 2))
    steps, interval = draw.randrange(20, 160), draw.choice((20, 50))
    request = small_run_request(
        datasets,
        resolution=size,
        train_batch_size=batch,
        max_train_steps=steps,
        checkpoint_step_interval=interval,
        seed=draw.randrange(1, 1000),
    )
    for backend in request["data_backends"]:
        if "resolution" in backend:
            backend["resolution"] = size
    return f"{size} px, batch {batch}, {steps} steps, saved every {interval}", request


def seconds_of(run: Json) -> float:
    """From the claim of the only attempt to its end."""
    (attempt,) = run["attempts"]
    moments = (datetime.fromisoformat(attempt[name]) for name in ("started_at", "ended_at"))
    started, ended = moments
    return (ended - started).total_seconds()


def trained(tenant: Tenant, request: Json) -> Json:
    """The run when it has succeeded."""
    run = tenant.wait_over(tenant.submit(request), deadline_s=300)
    assert run["status"] == "succeeded", run["status_reason"]
    return run


@pytest.mark.deep
def test_twenty_runs_take_about_as_long_as_was_estimated(fleet: Fleet, tmp_path: Path) -> None:
    tenant = new_tenant(fleet, "ada")
    datasets = {"photos": tenant.push_folder(small_photos(tmp_path / "photos"))}
    draw = random.Random(SEED)
    measured, foretold = (
        [sized_request(datasets, draw) for _ in range(number)] for number in (MEASURED, COMPARED)
    )
    for _, request in measured:
        trained(tenant, request)
    estimates = [tenant.post("/v1/runs:validate", request)["estimate"] for _, request in foretold]
    found = [
        Compared(
            what=what,
            likeness=estimate["basis"]["likeness"],
            p50_s=estimate["seconds"]["p50"],
            p90_s=estimate["seconds"]["p90"],
            actual_s=seconds_of(trained(tenant, request)),
        )
        for (what, request), estimate in zip(foretold, estimates, strict=True)
    ]

    for each in found:
        print(
            f"{each.what}: {each.actual_s:.1f} s, p50 {each.p50_s:.1f} s, p90 {each.p90_s:.1f} s "
            f"({each.likeness}), ratio {each.ratio:.2f}"
        )
    off = median(abs(each.ratio - 1) for each in found)
    exceeded = sum(each.actual_s > each.p90_s for each in found)
    print(f"median |actual / p50 - 1| {off:.3f}, p90 exceeded {exceeded} of {len(found)} times")
    assert off <= 0.20
    assert exceeded <= 4
