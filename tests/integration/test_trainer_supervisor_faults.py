"""Whatever fails in an attempt is handed back at once, with a code of its own.

The lease is a minute here, so a run that waited for its end would fail these tests.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_place import Place, claimable_again, open_place

SECONDS = 20.0
"""Most of it is the start of the trainer's process."""
NEW_DISK = 'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"'


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    with open_place(tmp_path, database_url) as place:
        place.env |= {"REVERIE_LEASE_S": "60", "REVERIE_RENEW_S": "1", "REVERIE_POLL_S": "1"}
        yield place


def handed_back(place: Place, process: subprocess.Popen[bytes], started_s: float) -> str:
    """The code of the one attempt, which ended the lease; the trainer outlived it."""
    assert place.end_of(process) == 0, place.logs()
    assert time.monotonic() - started_s < SECONDS
    ((outcome, _, code, message),) = place.attempts()
    assert outcome == "failed", place.logs()
    assert message
    assert place.ask("SELECT lease_until FROM runs WHERE run_id = %(run_id)s") == [(None,)]
    return str(code)


def own_disk(place: Place, options: str) -> list[str]:
    """A launcher that gives the trainer a scratch disk of its own, gone with its process."""
    scratch = place.folder / "scratch"
    scratch.mkdir()
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c", NEW_DISK, options, str(scratch)]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace")
    return own


@pytest.mark.parametrize("files", [4, 5, 6, 7, 8])
def test_a_disk_without_room_for_one_more_file(place: Place, files: int) -> None:
    """Four files are the worker's own: the attempt's folder, its parts and the job come after."""
    disk = own_disk(place, f"size=200m,nr_inodes={files}")
    started_s = time.monotonic()

    process = place.start("finish", launcher=disk)

    assert handed_back(place, process, started_s) == "disk_full"
    assert place.run()["status"] == "queued"  # another machine may have room


def test_a_worker_whose_disk_is_full_takes_no_run(place: Place) -> None:
    process = place.start("finish", launcher=own_disk(place, "size=1m"))

    assert place.end_of(process) == 0, place.logs()
    assert place.attempts() == []
    assert place.run()["status"] == "queued"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("plan = plan #- '{identity,seed}'", "plan_unreadable"),
        ("data_index = '{}'", "data_index_unreadable"),
    ],
)
def test_a_document_that_cannot_be_read_is_not_retried(
    place: Place, damage: str, code: str
) -> None:
    place.do(f"UPDATE run_documents SET {damage} WHERE run_id = %(run_id)s")
    started_s = time.monotonic()

    assert handed_back(place, place.start("finish"), started_s) == code
    assert place.run()["status"] == "failed"
    assert place.run()["status_reason"]["category"] == "platform"


def test_an_error_that_nobody_foresaw(place: Place) -> None:
    started_s = time.monotonic()

    process = place.start("finish", python=str(place.folder / "no-such-python"))

    assert handed_back(place, process, started_s) == "internal_error"
    assert place.run()["status_reason"]["category"] == "platform"
    assert "no-such-python" not in place.run()["status_reason"]["message"]
    assert "no-such-python" in place.logs()  # the operator sees the whole of it


def test_what_was_saved_before_an_error_is_kept(place: Place) -> None:
    """The event file turns into one that cannot be followed, after the checkpoint of step 4."""
    started_s = time.monotonic()

    assert handed_back(place, place.start("babble"), started_s) == "internal_error"
    assert place.run()["checkpoint_step"] == 4
    assert not place.child_pids()
    claimable_again(place)
    assert place.end_of(place.start("finish")) == 0
    assert place.run()["status"] == "succeeded", place.logs()


def test_a_lost_lease_is_not_handed_back_even_where_something_fails(place: Place) -> None:
    process = place.start("babble-late", REVERIE_RENEW_S="20")  # it has not read the loss
    place.wait_for_step(3)

    place.do("UPDATE runs SET fence = fence + 1 WHERE run_id = %(run_id)s")

    assert place.end_of(process) == 0, place.logs()
    assert place.attempts()[0][0] is None
    assert place.run()["status"] == "running"
