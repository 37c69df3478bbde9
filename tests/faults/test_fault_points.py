"""A trainer dies, or an error is raised, at each named place: the next one ends the run, once."""

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.trainer_supervisor_child import INTERVAL, STEPS
from tests.integration.trainer_supervisor_host import TrainerHost, claimable_again, open_host

PICTURE_POINTS = ("sample.stored", "sample.recorded")
"""The trainer goes on after an error there."""
POINTS = (
    "attempt.claimed",
    "attempt.child_started",
    "folder.before_manifest",
    "checkpoint.uploaded",
    "checkpoint.committed",
    "result.uploaded",
    "result.committed",
)


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


def with_fault(host: TrainerHost, fault: str) -> int:
    """Run a trainer that meets the fault; its exit status."""
    # In the environment of the process: fault points do not read the settings.
    own = {"REVERIE_ENV": "test", "FAULT_AT": fault}
    return host.end_of(host.start("paint", process_env=own))


def assert_ended_once(host: TrainerHost, *, attempts: int) -> None:
    run = host.run()
    assert (run["status"], run["fence"]) == ("succeeded", attempts), host.logs()
    assert run["result_step"] == STEPS
    assert [step for step, _ in host.events("run.succeeded")] == [STEPS]
    assert [row[0] for row in host.attempts()][-1] == "finished"
    assert_stored(host)
    assert_painted(host)


def assert_painted(host: TrainerHost) -> None:
    """Each picture that the run had to make has one row, whose file is whole."""
    rows = host.ask(
        "SELECT step, fence, sha256 FROM run_samples WHERE run_id = %(run_id)s ORDER BY step"
    )
    assert [row[0] for row in rows] == list(range(INTERVAL, STEPS + 1, INTERVAL)), host.logs()
    for _, fence, sha256 in rows:
        (file,) = (host.folder / "objects").rglob(f"attempts/{fence}/samples/{sha256}.png")
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def assert_stored(host: TrainerHost) -> None:
    """Everything that a row names is stored, whole."""
    rows = host.ask(
        "SELECT key_prefix, manifest_sha256 FROM checkpoints WHERE run_id = %(run_id)s"
        " UNION ALL SELECT result_key_prefix, result_manifest_sha256 FROM runs"
        " WHERE run_id = %(run_id)s"
    )
    assert len(rows) > 1
    for prefix, sha256 in rows:
        (folder,) = [p.parent for p in host.folder.rglob("manifest.json") if prefix in str(p)]
        manifest = (folder / "manifest.json").read_bytes()
        assert hashlib.sha256(manifest).hexdigest() == sha256
        files: dict[str, dict[str, Any]] = json.loads(manifest)["files"]
        for name, facts in files.items():
            body = (folder / name).read_bytes()
            assert (len(body), hashlib.sha256(body).hexdigest()) == (
                facts["size_bytes"],
                facts["sha256"],
            )


def test_a_run_whose_workers_die_at_each_point_in_turn_ends_once(host: TrainerHost) -> None:
    resumed_from = []
    for point in (*PICTURE_POINTS, *POINTS):
        # At the second checkpoint of its attempt, so that one is stored.
        nth = "@2" if point.startswith(("checkpoint", "folder")) else ""
        assert with_fault(host, f"{point}{nth}=kill") == -signal.SIGKILL, host.logs()
        resumed_from.append(host.attempts()[-1][1])
        if point != "result.committed":  # its commit counts, although nobody saw the answer
            claimable_again(host)

    assert resumed_from[:7] == [0, 0, 0, 0, 0, INTERVAL, 2 * INTERVAL]
    assert resumed_from[7] in {3 * INTERVAL, 4 * INTERVAL}
    assert resumed_from[8] == STEPS
    assert_ended_once(host, attempts=len(resumed_from))


def test_an_error_at_each_point_is_handed_back_and_the_run_ends_once(host: TrainerHost) -> None:
    for point in POINTS:
        assert with_fault(host, f"{point}=raise") == 0, host.logs()
        if point == "result.committed":
            break
        assert host.attempts()[-1][2] == "injected_fault", host.logs()
        assert host.run()["status"] == "queued"
        claimable_again(host)

    assert_ended_once(host, attempts=len(POINTS))
