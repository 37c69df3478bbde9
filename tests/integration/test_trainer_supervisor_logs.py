"""What the training process prints is kept, whatever happens to it or to its supervisor."""

import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.ledger import LOG_FIRST_BYTES, LOG_NEWEST_BYTES, LOG_PIECE_BYTES
from tests.integration.trainer_supervisor_child import FLOOD_LINES
from tests.integration.trainer_supervisor_host import (
    TrainerHost,
    claimable_again,
    open_host,
    wait_until,
)
from tests.support.forking import Process
from tests.support.postgres import PostgresServer

PATIENT = {"REVERIE_LEASE_S": "60", "REVERIE_RENEW_S": "1"}
LINE = re.compile(r"line of step (\d+) é\n")


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


def pieces(host: TrainerHost) -> list[tuple[int, int, int, str]]:
    """Fence, start, end and text of each piece, in order."""
    return host.ask(
        "SELECT fence, start_byte, start_byte + num_bytes, text FROM run_logs"
        " WHERE run_id = %(run_id)s ORDER BY start_byte"
    )


def log_of(host: TrainerHost, fence: int) -> str:
    return "".join(text for of, _, _, text in pieces(host) if of == fence)


def steps_printed(host: TrainerHost, fence: int) -> list[int]:
    """The steps whose line is in the log; nothing but whole lines may be there."""
    text = log_of(host, fence).removeprefix("libraries print what they like\n")
    assert LINE.sub("", text) == "", "a torn line"
    return [int(step) for step in LINE.findall(text)]


def wait_for_lines(host: TrainerHost, count: int, *, fence: int = 1) -> None:
    wait_until(
        lambda: log_of(host, fence).count("line of step") >= count,
        what=lambda: f"{count} lines; {host.logs()}",
    )


def test_the_last_words_of_a_process_that_dies_are_kept(host: TrainerHost) -> None:
    assert host.end_of(host.start("last-words")) == 0

    text = log_of(host, 1)
    assert text.startswith("libraries print what they like\nline of step 1 é\n")
    assert text.endswith("line of step 5 é\nTraceback (most recent call last): [redacted]")
    assert host.attempts()[0][2] == "child_died", host.logs()


@pytest.mark.parametrize("end", ["SIGTERM", "canceled"])
def test_the_last_lines_are_kept_where_the_run_or_its_worker_is_stopped(
    host: TrainerHost, end: str
) -> None:
    holder = host.start("talk", **PATIENT)
    wait_for_lines(host, 3)
    if end == "SIGTERM":
        holder.send_signal(signal.SIGTERM)
    else:
        host.do("UPDATE runs SET status = 'canceling' WHERE run_id = %(run_id)s")
    assert host.end_of(holder) == 0

    assert host.attempts()[0][0] == "stopped", host.logs()
    steps = steps_printed(host, 1)
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] >= host.events("step")[-1][0]


@pytest.mark.deep
def test_attempts_of_killed_supervisors_leave_whole_lines_once_each(host: TrainerHost) -> None:
    for fence in (1, 2, 3):
        holder = host.start("talk")
        wait_for_lines(host, 3, fence=fence)
        holder.kill()
        host.end_of(holder)
        wait_until(lambda: not host.child_pids(), what="the orphan to end")
        claimable_again(host)
    assert host.end_of(host.start("finish")) == 0
    assert host.run()["status"] == "succeeded", host.logs()

    found = pieces(host)
    assert [start for _, start, _, _ in found] == [0, *(end for _, _, end, _ in found[:-1])]
    assert sorted({fence for fence, *_ in found}) == [1, 2, 3, 4]
    for fence in (1, 2, 3):
        steps = steps_printed(host, fence)
        assert steps == list(range(steps[0], steps[0] + len(steps)))
    assert log_of(host, 4) == "libraries print what they like\n"


@pytest.mark.deep
def test_an_outage_of_the_database_costs_no_line_and_no_step(
    host: TrainerHost, postgres_server: PostgresServer
) -> None:
    holder = host.start("talk-unsaved", **PATIENT)
    wait_for_lines(host, 3)
    (attempt,) = (host.folder / "scratch").glob("wrk_*/attempt-*")

    def steps() -> int:
        return (attempt / "events.jsonl").read_text().count('"step", "step"')

    postgres_server.stop("immediate")
    try:
        before = steps()
        wait_until(lambda: steps() > before + 20, what="training to go on", every_s=0.02)
    finally:
        postgres_server.start()
    wait_for_lines(host, before + 25)
    holder.send_signal(signal.SIGTERM)
    assert host.end_of(holder) == 0

    printed = steps_printed(host, 1)
    assert printed == list(range(1, printed[-1] + 1))
    stored = [step for step, _ in host.events("step")]
    assert stored == list(range(1, stored[-1] + 1)), "the outage left a hole in the curve"


def test_a_former_holder_adds_nothing(host: TrainerHost) -> None:
    holder = host.start("talk", **PATIENT)
    wait_for_lines(host, 3)
    host.do("UPDATE runs SET fence = fence + 1 WHERE run_id = %(run_id)s")
    before = pieces(host)
    assert host.end_of(holder) == 0
    assert pieces(host) == before


def max_rss_bytes(process: Process) -> int:
    """Wait for the end of the process; the most memory that it had."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.deep
def test_a_flood_costs_neither_memory_nor_steps_and_little_of_it_is_kept(
    host: TrainerHost,
) -> None:
    quiet_host = host.another_run()
    quiet_bytes = max_rss_bytes(quiet_host.start("finish", fresh=True))
    flood_bytes = max_rss_bytes(host.start("flood", fresh=True))

    assert host.run()["status"] == "succeeded", host.logs()
    assert flood_bytes - quiet_bytes < 24 << 20
    num_bytes = FLOOD_LINES * 100
    found = pieces(host)
    end = found[-1][2]
    assert end == num_bytes + len("libraries print what they like\n")
    assert found[-1][3].endswith(f"{FLOOD_LINES - 1:07d} {'x' * 91}\n")
    first = [piece for piece in found if piece[1] < LOG_FIRST_BYTES]
    assert sum(stop - start for _, start, stop, _ in first) >= LOG_FIRST_BYTES
    kept_bytes = sum(stop - start for _, start, stop, _ in found)
    assert kept_bytes <= LOG_FIRST_BYTES + LOG_NEWEST_BYTES + 2 * LOG_PIECE_BYTES
    newest = [piece for piece in found if piece[1] > end - LOG_NEWEST_BYTES]
    assert all(one[2] == two[1] for one, two in itertools.pairwise(newest))
    assert sum(stop - start for _, start, stop, _ in newest) > LOG_NEWEST_BYTES - LOG_PIECE_BYTES
    lines = "".join(text for *_, text in newest).splitlines()
    assert all(len(line) == 99 for line in lines), "a torn line"


@pytest.mark.deep
def test_the_log_has_a_traceback_and_neither_prompt_nor_caption_nor_place(
    host: TrainerHost,
) -> None:
    """The training process of a trainer, whose base model has no weights."""
    canary = "a canary prompt of a green boat"
    host.do(
        "UPDATE run_documents SET plan = jsonb_set(plan, '{operation,sample_prompt}',"
        f" '\"{canary}\"'), data_index = replace(data_index::text, '\"c\"', '\"{canary}\"')::jsonb"
        " WHERE run_id = %(run_id)s"
    )
    assert host.end_of(host.start("real")) == 0

    text = log_of(host, 1)
    assert "Traceback (most recent call last)" in text, host.logs()
    assert canary not in text + host.logs()
    assert str(host.folder) not in text
