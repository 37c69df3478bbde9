"""One attempt in a real process with a real child: how it ends, and no child is left."""

import hashlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.ids import new_id
from services.domain.starts import StartObject, StoredStart
from services.objects.keys import preview_key, upload_key
from services.objects.open import open_store
from services.settings.env import Settings
from tests.integration.trainer_supervisor_host import (
    TrainerHost,
    claimable_again,
    open_host,
    wait_until,
)
from tests.support.damage import flip
from tests.support.postgres import PostgresServer
from tests.support.run_samples import png, sample_path


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


def test_a_run_is_trained_and_committed(host: TrainerHost) -> None:
    assert host.end_of(host.start("finish")) == 0, host.logs()

    assert host.run()["status"] == "succeeded", host.logs()
    assert host.run()["result_step"] == 10
    assert host.attempts()[0][0] == "finished"
    checkpoints = host.ask("SELECT step FROM checkpoints WHERE run_id = %(run_id)s ORDER BY step")
    assert checkpoints == [(2,), (4,), (6,), (8,), (10,)]
    environment = host.events("stage")[0][1]["environment"]
    assert not {name for name in environment if name.startswith(("REVERIE_D", "HF_TOKEN", "AWS_"))}
    assert "path" not in host.events("checkpoint")[0][1]  # nothing of this machine's disk
    assert list((host.folder / "scratch").glob("wrk_*")) == []


def test_a_preview_is_stored_while_the_training_process_goes_on(host: TrainerHost) -> None:
    store = open_store(Settings.from_env(host.env))
    key = preview_key(host.tenant_id, host.run_id, 1)
    holder = host.start("preview")

    row = "SELECT fence, step, sampler_step FROM run_previews WHERE run_id = %(run_id)s"
    wait_until(lambda: host.ask(row), what=lambda: f"a preview; {host.logs()}")
    assert host.ask(row) == [(1, 5, 1)]
    assert store.get_bytes(key, limit_bytes=1 << 20) == png((5, 0, 0))
    assert host.run()["stage"] == "sampling"
    holder.send_signal(signal.SIGTERM)
    assert host.end_of(holder) == 0

    assert [attempt[0] for attempt in host.attempts()] == ["stopped"], host.logs()
    ((step, told),) = host.events("preview")
    assert (step, told["picture"], told.get("path")) == (5, sample_path(5), None)


def test_sigterm_commits_and_the_next_worker_resumes(host: TrainerHost) -> None:
    first = host.start("endless")
    host.wait_for_step(5)

    first.send_signal(signal.SIGTERM)
    assert host.end_of(first) == 0

    run = host.run()
    assert (run["status"], run["fence"]) == ("queued", 1), host.logs()
    assert host.attempts()[0][0] == "stopped"
    last_step = host.events("step")[-1][0]
    assert last_step - run["checkpoint_step"] <= 1
    claimable_again(host)
    second = host.start("finish")
    assert host.end_of(second) == 0
    assert host.run()["status"] == "succeeded", host.logs()
    assert host.attempts()[1][1] == run["checkpoint_step"]


def test_a_lost_lease_kills_the_child_and_nothing_more_is_written(host: TrainerHost) -> None:
    holder = host.start("endless")
    host.wait_for_step(3)

    host.do("UPDATE runs SET fence = fence + 1 WHERE run_id = %(run_id)s")
    assert host.end_of(holder) == 0

    before = host.run()
    assert not host.child_pids()
    assert before["status"] == "running"
    assert host.attempts()[0][0] is None  # neither handed back nor ended by the old holder
    assert list((host.folder / "scratch").glob("wrk_*")) == []


def test_nothing_is_trained_on_the_cpu_where_the_gpu_has_vanished(host: TrainerHost) -> None:
    """The device is ``auto``, and the check before found a GPU."""
    host.do(
        "UPDATE run_documents SET plan = jsonb_set(plan, '{operation,device}', '\"auto\"')"
        " WHERE run_id = %(run_id)s"
    )
    trainer = host.start("real", device_check=["true"], rings=2, REVERIE_GPU_CLASS="h200")
    assert host.end_of(trainer) == 0

    ((outcome, _, code, message),) = host.attempts()
    assert (outcome, code) == ("failed", "gpu_missing"), host.logs()
    assert "no cuda device" in message
    run = host.run()
    assert (run["status"], run["step"]) == ("queued", 0)
    assert host.events("step") == []
    assert "worker_draining" in host.logs()
    assert "ring_declined" in host.logs()


def test_a_child_that_dies_is_retryable_and_its_checkpoints_are_kept(host: TrainerHost) -> None:
    assert host.end_of(host.start("die")) == 0

    outcome, _, code, message = host.attempts()[0]
    assert (outcome, code) == ("failed", "child_died"), host.logs()
    assert "SIGKILL" in message
    assert host.run()["status"] == "queued"
    assert host.run()["checkpoint_step"] == 4


def test_a_child_that_hangs_is_ended(host: TrainerHost) -> None:
    assert host.end_of(host.start("hang", REVERIE_STALL_S="1.5")) == 0

    outcome, _, code, _ = host.attempts()[0]
    assert (outcome, code) == ("failed", "stalled"), host.logs()
    assert host.run()["status"] == "queued"
    assert not host.child_pids()


def test_a_child_that_reports_but_takes_no_step_is_ended(host: TrainerHost) -> None:
    assert host.end_of(host.start("chatter", REVERIE_STALL_S="1.5")) == 0

    outcome, _, code, message = host.attempts()[0]
    assert (outcome, code) == ("failed", "no_progress"), host.logs()
    assert "took no step for 1.5 s" in message
    assert host.run()["status"] == "queued"
    assert not host.child_pids()


def test_a_users_error_is_not_retried(host: TrainerHost) -> None:
    assert host.end_of(host.start("fail")) == 0

    assert host.attempts()[0][2] == "non_finite_loss", host.logs()
    assert host.run()["status"] == "failed"


def test_the_child_of_a_killed_supervisor_ends(host: TrainerHost) -> None:
    holder = host.start("endless")
    host.wait_for_step(3)
    assert len(host.child_pids()) == 1

    holder.kill()
    host.end_of(holder)

    wait_until(lambda: not host.child_pids(), what="the orphan to end")
    assert list((host.folder / "scratch").glob("wrk_*"))  # left behind …
    claimable_again(host)
    assert host.end_of(host.start("finish")) == 0
    assert list((host.folder / "scratch").glob("wrk_*")) == []  # … and wiped by the next one


@pytest.mark.parametrize(
    ("requested", "status"),
    [("status = 'canceling'", "canceled"), ("must_stop = true", "queued")],
)
def test_a_request_of_the_service_stops_the_child(
    host: TrainerHost, requested: str, status: str
) -> None:
    holder = host.start("endless")
    host.wait_for_step(3)

    host.do(f"UPDATE runs SET {requested} WHERE run_id = %(run_id)s")
    assert host.end_of(holder) == 0

    assert host.run()["status"] == status, host.logs()
    assert host.attempts()[0][0] == "stopped"


def test_a_frozen_database_pauses_the_child_until_the_same_fence_renews(
    host: TrainerHost, postgres_server: PostgresServer
) -> None:
    holder = host.start("unsaved")
    host.wait_for_step(3)
    (child,) = host.child_pids()
    (attempt,) = (host.folder / "scratch").glob("wrk_*/attempt-*")

    postgres_server.freeze()
    try:
        wait_until(lambda: _paused(attempt), what="the child to pause")
    finally:
        postgres_server.thaw()

    wait_until(lambda: not _paused(attempt), what="the child to continue")
    step = host.run()["step"]
    host.wait_for_step(step + 3)
    assert host.child_pids() == [child]
    holder.send_signal(signal.SIGTERM)
    assert host.end_of(holder) == 0
    assert host.attempts()[0][0] == "stopped", host.logs()


def test_a_crash_of_the_database_costs_the_run_nothing(
    host: TrainerHost, postgres_server: PostgresServer
) -> None:
    holder = host.start("unsaved")
    host.wait_for_step(3)
    (child,) = host.child_pids()

    postgres_server.stop("immediate")
    postgres_server.start()

    step = host.run()["step"]
    host.wait_for_step(step + 3)
    assert host.child_pids() == [child]
    holder.send_signal(signal.SIGTERM)
    assert host.end_of(holder) == 0
    assert [each[0] for each in host.attempts()] == ["stopped"], host.logs()
    assert host.ask("SELECT attempts_without_progress, infra_failures FROM runs") == [(0, 0)]


def _paused(attempt: Path) -> bool:
    stages = [
        event["stage"]
        for line in (attempt / "events.jsonl").read_text().splitlines()
        if '"stage"' in line and (event := json.loads(line))["event"] == "stage"
    ]
    return stages[-1] == "paused"


def start_from(host: TrainerHost, body: bytes, *, stored: bytes | None) -> None:
    """Have the run start from an adapter; ``stored``: what the store has of it, if anything."""
    sha256 = hashlib.sha256(body).hexdigest()
    key = upload_key(host.tenant_id, sha256)
    if stored is not None:
        open_store(Settings.from_env(host.env)).put_bytes(key, stored)
    file = StartObject(
        name="pytorch_lora_weights.safetensors", key=key, sha256=sha256, size_bytes=len(body)
    )
    start = StoredStart(source=new_id("ds"), step=None, files=(file,))
    host.do(
        f"UPDATE runs SET start_adapter = '{json.dumps(start.as_json())}' WHERE run_id = %(run_id)s"
    )


def test_the_adapter_that_a_run_starts_from_is_fetched_before_its_first_step(
    host: TrainerHost,
) -> None:
    start_from(host, b"adapter", stored=b"adapter")
    assert host.end_of(host.start("die")) == 0
    claimable_again(host)

    assert host.end_of(host.start("finish")) == 0

    assert host.run()["status"] == "succeeded", host.logs()
    first, resumed = (data["start"] for _, data in host.events("stage"))
    assert first == {"pytorch_lora_weights.safetensors": "adapter"}
    assert resumed is None


@pytest.mark.parametrize("stored", [None, b"damaged"])
def test_a_run_that_starts_from_a_damaged_adapter_fails_and_names_it(
    host: TrainerHost, stored: bytes | None
) -> None:
    start_from(host, b"adapter", stored=stored)

    assert host.end_of(host.start("finish")) == 0

    ((outcome, _, code, message),) = host.attempts()
    assert (outcome, code) == ("failed", "start_adapter_corrupt"), host.logs()
    assert re.match(r"init_lora: ds_\w+ is missing or damaged in the store\. Start from", message)
    assert host.run()["status"] == "failed"


def damage_checkpoint(host: TrainerHost, step: int) -> None:
    (manifest,) = host.stored_state(step)
    (manifest.parent / "state.bin").write_bytes(b"not what the manifest says")


def test_instead_of_a_damaged_checkpoint_the_older_one_is_used(host: TrainerHost) -> None:
    assert host.end_of(host.start("die")) == 0
    claimable_again(host)
    damage_checkpoint(host, 4)

    assert host.end_of(host.start("finish")) == 0

    assert host.run()["status"] == "succeeded", host.logs()
    ((step, warning),) = host.events("warning")
    assert (step, warning["code"]) == (4, "checkpoint_corrupt")
    assert warning["message"] == (
        "The checkpoint of step 4 is missing or damaged in the store. The run goes on from step 2."
    )
    trained = [round(1 / data["loss"]) for _, data in host.events("step")]
    assert (trained.count(3), trained.count(2)) == (2, 1)


def test_without_an_intact_checkpoint_a_run_fails_and_names_it(host: TrainerHost) -> None:
    assert host.end_of(host.start("die")) == 0
    claimable_again(host)
    (manifest,) = host.stored_state(2)
    flip(manifest)
    (manifest,) = host.stored_state(4)
    (manifest.parent / "state.bin").unlink()

    assert host.end_of(host.start("finish")) == 0

    assert host.attempts()[1][2] == "checkpoint_corrupt", host.logs()
    assert host.attempts()[1][3] == (
        "The checkpoint of step 4 and all older ones are missing or damaged in the store."
    )
    assert [warning["message"] for _, warning in host.events("warning")] == [
        f"The checkpoint of step {step} is missing or damaged in the store." for step in (4, 2)
    ]
    assert host.run()["status"] == "failed"
