"""An attempt that fails hands its run back at once, with an error code for the cause.

The lease is a minute here, so a run that waited for its lease to expire would fail these tests.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_host import TrainerHost, claimable_again, open_host
from tests.support.damage import flip
from tests.support.forking import Process
from tests.support.own_disk import own_disk
from trainer_core.base_models.describe import describe_base, read_base_model

SECONDS = 20.0
"""Most of it is the start of the trainer process."""


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        host.env |= {"REVERIE_LEASE_S": "60", "REVERIE_RENEW_S": "1", "REVERIE_POLL_S": "1"}
        yield host


def handed_back(host: TrainerHost, process: Process, started_s: float) -> str:
    """The error code of the one attempt, after the trainer's clean end; the lease has ended."""
    assert host.end_of(process) == 0, host.logs()
    assert time.monotonic() - started_s < SECONDS
    ((outcome, _, code, message),) = host.attempts()
    assert outcome == "failed", host.logs()
    assert message
    assert host.ask("SELECT lease_until FROM runs WHERE run_id = %(run_id)s") == [(None,)]
    return str(code)


def test_a_run_that_meets_a_full_disk_is_handed_back_and_the_worker_takes_no_other(
    host: TrainerHost,
) -> None:
    started_s = time.monotonic()

    process = host.start("fill", launcher=own_disk(host.folder / "scratch", "size=80m"), rings=3)

    assert handed_back(host, process, started_s) == "worker_disk_full"
    assert host.run()["status"] == "queued"  # another machine may have room
    logs = host.logs()
    assert logs.count("ring_declined") == 2, logs
    assert logs.count("worker_draining") == 1, logs
    assert "REVERIE_SCRATCH_DIR" not in host.run()["status_reason"]["message"]


@pytest.mark.parametrize("options", ["size=1m", "size=200m,nr_inodes=50"])
def test_a_worker_whose_disk_is_full_takes_no_run(host: TrainerHost, options: str) -> None:
    process = host.start("finish", launcher=own_disk(host.folder / "scratch", options))

    assert host.end_of(process) == 0, host.logs()
    assert host.attempts() == []
    assert host.run()["status"] == "queued"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("plan = plan #- '{identity,seed}'", "plan_of_other_version"),
        ("data_index = '{}'", "data_index_unreadable"),
    ],
)
def test_a_document_that_cannot_be_read_is_not_retried(
    host: TrainerHost, damage: str, code: str
) -> None:
    host.do(f"UPDATE run_documents SET {damage} WHERE run_id = %(run_id)s")
    started_s = time.monotonic()

    assert handed_back(host, host.start("finish"), started_s) == code
    assert host.run()["status"] == "failed"
    assert host.run()["status_reason"]["category"] == "platform"


def test_a_plan_of_a_newer_version_waits_for_a_newer_worker(host: TrainerHost) -> None:
    host.do("UPDATE run_documents SET plan = jsonb_set(plan, '{identity,newer}', '1')")
    started_s = time.monotonic()

    assert handed_back(host, host.start("finish"), started_s) == "plan_of_other_version"
    run = host.run()
    assert (run["status"], run["stage"]) == ("queued", "capacity")
    assert "newer" in run["status_reason"]["message"]
    assert host.ask("SELECT attempts_without_progress, infra_failures FROM runs") == [(0, 1)]


def test_a_damaged_shard_is_deleted_and_built_again(host: TrainerHost) -> None:
    content = next((host.folder / "objects").rglob("*.safetensors"))
    content.write_bytes(b"x" * content.stat().st_size)
    digest = content.parent.name
    started_s = time.monotonic()

    assert handed_back(host, host.start("endless"), started_s) == "shard_corrupt"
    assert not list(content.parent.glob("*"))
    pending = host.ask("SELECT digest FROM cache_shards WHERE status = 'pending'")
    assert pending == [(digest,)]
    run = host.run()
    assert (run["status"], run["stage"]) == ("running", "caching")  # until it is built


def test_a_worker_whose_base_model_is_damaged_hands_the_run_back(host: TrainerHost) -> None:
    config = next(Path(host.env["REVERIE_MODELS_DIR"]).rglob("transformer/config.json"))
    weights = config.with_name("diffusion_pytorch_model.safetensors")
    weights.write_bytes(b"the weights")
    base = describe_base(config.parents[1], read_base_model(config.parents[1]).name)
    host.do(
        "UPDATE run_documents SET plan = jsonb_set(plan, '{identity,base,digest}',"
        f" '\"{base.digest}\"')"
    )
    flip(weights)
    started_s = time.monotonic()

    assert handed_back(host, host.start("finish"), started_s) == "base_model_damaged"
    reason = host.run()["status_reason"]
    assert reason["category"] == "infra"
    assert reason["message"] == "The worker's copy of the base model is damaged or incomplete."
    logs = host.logs()
    assert f"{weights} is damaged: its SHA-256 is not the recorded one." in logs, logs


def test_an_unexpected_error_is_reported_as_internal(host: TrainerHost) -> None:
    started_s = time.monotonic()

    process = host.start("finish", python=str(host.folder / "no-such-python"))

    assert handed_back(host, process, started_s) == "internal_error"
    assert host.run()["status_reason"]["category"] == "platform"
    assert "no-such-python" not in host.run()["status_reason"]["message"]
    logs = host.logs()
    assert "no-such-python" in logs, logs  # the operator's log has the details


def test_what_was_saved_before_an_error_is_kept(host: TrainerHost) -> None:
    """After the checkpoint of step 4 the child writes an event file that cannot be parsed."""
    started_s = time.monotonic()

    assert handed_back(host, host.start("babble"), started_s) == "internal_error"
    assert host.run()["checkpoint_step"] == 4
    assert not host.child_pids()
    claimable_again(host)
    assert host.end_of(host.start("finish")) == 0
    assert host.run()["status"] == "succeeded", host.logs()


def test_a_lost_lease_is_not_handed_back_even_where_something_fails(host: TrainerHost) -> None:
    process = host.start(
        "babble-late", REVERIE_RENEW_S="20"
    )  # no renewal has reported the loss yet
    host.wait_for_step(3)

    host.do("UPDATE runs SET fence = fence + 1 WHERE run_id = %(run_id)s")

    assert host.end_of(process) == 0, host.logs()
    assert host.attempts()[0][0] is None
    assert host.run()["status"] == "running"
