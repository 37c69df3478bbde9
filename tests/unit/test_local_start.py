"""How a local run starts, over every combination of what was requested and what exists."""

from itertools import product
from pathlib import Path
from typing import Final

import pytest

from trainer_core.local.start import (
    Checkpoints,
    Damaged,
    Refuse,
    Resume,
    Start,
    StartAnew,
    StartedRun,
    decide_start,
    refusal,
)

NEWEST: Final = Path("/out/checkpoints/step-00000009")
OTHER: Final = Path("/other/step-00000003")
MISSING: Final = Refuse("there is no such checkpoint")
TORN: Final = tuple(
    Damaged(path=Path(f"/out/checkpoints/step-{step:08d}"), why=f"step {step} is torn")
    for step in (2, 4, 6, 8)
)
NONE_WHOLE: Final = (
    "none of the checkpoints in /out/checkpoints is whole: step 8 is torn; step 6 is torn; step 4 "
    "is torn; and 1 more. Put one back from a copy, or "
)
DIGEST: Final = "d" * 64

NO_CHECKPOINT: Final = Checkpoints()
HAS_NEWEST: Final = Checkpoints(own=(NEWEST,), damaged=TORN[:1])
HAS_REQUESTED: Final = Checkpoints(requested=OTHER)
HAS_BOTH: Final = Checkpoints(own=(NEWEST,), requested=OTHER)
LACKS_REQUESTED: Final = Checkpoints(problem=MISSING)
HAS_NEWEST_LACKS_REQUESTED: Final = Checkpoints(own=(NEWEST,), problem=MISSING)
HAS_TORN: Final = Checkpoints(damaged=TORN)
HAS_TORN_AND_REQUESTED: Final = Checkpoints(damaged=TORN, requested=OTHER)
HAS_TORN_LACKS_REQUESTED: Final = Checkpoints(damaged=TORN, problem=MISSING)


def started(request: str, digest: str = DIGEST) -> StartedRun:
    return StartedRun(request=request, digest=digest)


FROM_STEP_0: Final = "start at step 0 with --set resume_from_checkpoint="
WITHOUT_RECORD: Final = "delete course.json in the output folder to start anew"


def no_whole(way_on: str) -> Refuse:
    return Refuse(NONE_WHOLE + way_on, is_damage=True)


NOT_THE_SAME: Final = (
    None,
    started("another request"),
    started("", "e" * 64),
    started("other", "e" * 64),
)
"""No unfinished run, or one of another request, plan or data."""

TABLE: Final[list[tuple[str, Checkpoints, StartedRun | None, Start]]] = [
    # latest resumes from the newest checkpoint, whatever was started before.
    *[
        ("latest", checkpoints, before, Resume(checkpoints.newest))
        for checkpoints in (NO_CHECKPOINT, HAS_NEWEST)
        for before in (*NOT_THE_SAME, started("latest"), started(""), started("other"))
    ],
    # Empty starts at step 0, unless the same run was started and stopped before.
    *[
        ("", checkpoints, before, StartAnew(None))
        for checkpoints in (NO_CHECKPOINT, HAS_NEWEST)
        for before in (*NOT_THE_SAME, started("other"))
    ],
    ("", HAS_NEWEST, started(""), Resume(NEWEST)),
    ("", NO_CHECKPOINT, started(""), StartAnew(None)),
    # A named checkpoint is started from, unless the same run was started and stopped before.
    *[
        ("other", checkpoints, before, StartAnew(OTHER))
        for checkpoints in (HAS_REQUESTED, HAS_BOTH)
        for before in (*NOT_THE_SAME, started(""))
    ],
    ("other", HAS_BOTH, started("other"), Resume(NEWEST)),
    ("other", HAS_REQUESTED, started("other"), StartAnew(OTHER)),
    # A named one that is missing is refused, unless the run it started has checkpoints of its own.
    *[
        ("other", checkpoints, before, MISSING)
        for checkpoints in (LACKS_REQUESTED, HAS_NEWEST_LACKS_REQUESTED)
        for before in (*NOT_THE_SAME, started(""))
    ],
    ("other", HAS_NEWEST_LACKS_REQUESTED, started("other"), Resume(NEWEST)),
    ("other", LACKS_REQUESTED, started("other"), MISSING),
    # Where no checkpoint of a run is whole, the run is refused, never started over.
    *[
        ("latest", HAS_TORN, before, no_whole(FROM_STEP_0))
        for before in (*NOT_THE_SAME, started("latest"))
    ],
    *[("", HAS_TORN, before, StartAnew(None)) for before in NOT_THE_SAME],
    ("", HAS_TORN, started(""), no_whole(WITHOUT_RECORD)),
    *[("other", HAS_TORN_AND_REQUESTED, before, StartAnew(OTHER)) for before in NOT_THE_SAME],
    ("other", HAS_TORN_AND_REQUESTED, started("other"), no_whole(WITHOUT_RECORD)),
    *[("other", HAS_TORN_LACKS_REQUESTED, before, MISSING) for before in NOT_THE_SAME],
    ("other", HAS_TORN_LACKS_REQUESTED, started("other"), no_whole(WITHOUT_RECORD)),
]


@pytest.mark.parametrize(("request_", "checkpoints", "before", "expected"), TABLE)
def test_the_start_follows_from_the_request_and_what_exists(
    request_: str, checkpoints: Checkpoints, before: StartedRun | None, expected: Start
) -> None:
    assert decide_start(request_, checkpoints, before, DIGEST) == expected


def test_the_table_has_every_combination() -> None:
    possible = {
        "latest": (NO_CHECKPOINT, HAS_NEWEST, HAS_TORN),
        "": (NO_CHECKPOINT, HAS_NEWEST, HAS_TORN),
        "other": (
            HAS_REQUESTED,
            HAS_BOTH,
            LACKS_REQUESTED,
            HAS_NEWEST_LACKS_REQUESTED,
            HAS_TORN_AND_REQUESTED,
            HAS_TORN_LACKS_REQUESTED,
        ),
    }
    listed = [(request, checkpoints, before) for request, checkpoints, before, _ in TABLE]
    for request, all_checkpoints in possible.items():
        for checkpoints, before in product(all_checkpoints, (*NOT_THE_SAME, started(request))):
            assert (request, checkpoints, before) in listed


@pytest.mark.parametrize(("request_", "checkpoints", "before", "_"), TABLE)
def test_what_is_refused_before_the_data_is_read_is_refused_for_any_data(
    request_: str, checkpoints: Checkpoints, before: StartedRun | None, _: Start
) -> None:
    starts = [decide_start(request_, checkpoints, before, digest * 64) for digest in "def"]

    early = refusal(request_, checkpoints, before)

    is_certain = all(isinstance(start, Refuse) and start == starts[0] for start in starts)
    assert (early is not None) == is_certain
    if early is not None:
        assert all(start == early for start in starts)


def test_the_record_of_a_started_run_is_the_file_that_earlier_versions_wrote() -> None:
    text = '{"wish":"","digest":"' + DIGEST + '"}'
    assert started("").model_dump_json() == text
    assert StartedRun.model_validate_json(text) == started("")
