"""Inputs made to hurt: another tenant's run is admitted within 2 s and succeeds, each time.

The poisoned run ends with a code of its own, and its message says how to go on; or it waits, says
why, and succeeds once what held it is gone.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.poison import data, rows, training
from tests.faults.poison.host import Host
from tests.faults.random.stack import small_disk
from tests.support.fleet import Fleet
from tests.support.forked_trainer import SOCKET
from tests.support.forking import TRAINING, server_of
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.service import new_tenant

ADMITTED_S = 2.0
READY_S = 15.0
"""Until one small picture is verified; a builder that waits for a lock does nothing for 30 s."""


@dataclass(frozen=True, kw_only=True)
class Poison:
    """One input, and how its run has to end."""

    hurt: Callable[[Host], AbstractContextManager[str]]
    """Submits the run; the block is held while the neighbour's run is trained."""
    code: str
    """``succeeded``, or the code of the failure."""
    says: str = ""
    """A part of the failure's message: the file, or the way out."""
    waits: str | None = None
    """Code of what it waits for in the block."""
    is_long: bool = False
    """Whether it hurts for long: runs of the neighbour are trained until it is admitted, and one
    while its data is encoded."""


POISONS = {
    "14,000 captions of 20,000 characters": Poison(
        hurt=data.long_captions, code="data_index_too_large", says="Shorten the captions"
    ),
    "3,000 pictures": Poison(hurt=data.many_pictures, code="succeeded", is_long=True),
    "a picture of 400 million pixels": Poison(hurt=data.bomb, code="bad_image", says="bomb.png"),
    "half a picture": Poison(hurt=data.half_a_picture, code="bad_image", says="half.png"),
    "a caption that is not text": Poison(
        hurt=data.undecodable_caption, code="bad_caption", says="noise.txt: not UTF-16 text"
    ),
    "a prompt that is not text": Poison(
        hurt=data.undecodable_prompts, code="plan_of_other_version", says="submit the run again"
    ),
    "an upload that vanished": Poison(
        hurt=data.vanished_upload, code="input_missing", says="create the dataset again"
    ),
    "an upload that was altered": Poison(
        hurt=data.altered_upload, code="input_corrupt", says="create the dataset again"
    ),
    "a locked run": Poison(hurt=rows.locked_run, code="succeeded", waits="waiting_for_admission"),
    "locked shards": Poison(hurt=rows.locked_shard, code="succeeded", waits="database_busy"),
    "corrupt datasets of a run": Poison(
        hurt=rows.corrupt_datasets, code="run_damaged", says="Submit the run again"
    ),
    "lost documents of a run": Poison(
        hurt=rows.lost_documents, code="run_damaged", says="Submit the run again"
    ),
    "an exception in one admission": Poison(
        hurt=rows.exception_in_admission, code="succeeded", waits="internal_error"
    ),
    "an older plan": Poison(
        hurt=rows.older_plan, code="plan_of_other_version", says="submit the run again"
    ),
    "an older plan at the worker": Poison(
        hurt=rows.older_plan_at_the_worker,
        code="plan_of_other_version",
        says="submit the run again",
    ),
    "a GPU class that nobody has": Poison(
        hurt=rows.no_worker_of_its_class, code="succeeded", waits="no_worker_of_this_class"
    ),
    "it kills its process": Poison(
        hurt=training.kills_its_process, code="attempts_exhausted", says="train_batch_size"
    ),
    "a step that never ends": Poison(
        hurt=training.endless_step, code="attempts_exhausted", says="train_batch_size"
    ),
    "a loss that is not a number": Poison(
        hurt=training.not_a_number, code="non_finite_loss", says="learning_rate"
    ),
    "a full disk of one of two workers": Poison(hurt=training.full_disk, code="succeeded"),
    "100,000 files": Poison(hurt=data.many_files, code="canceled", is_long=True),
}


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    shared_redis_server: RedisServer,
    models_dir: Path,
) -> Iterator[Host]:
    home = tmp_path_factory.mktemp("poison")
    with contextlib.ExitStack() as opened:
        disk = small_disk(home / "small-disk", opened)
        fleet = Fleet(
            home,
            {
                "REVERIE_DATABASE_URL": postgres_server.create_database(),
                "REVERIE_BROKER_URL": shared_redis_server.url,
                "REVERIE_OBJECTS_URL": f"file://{home}/objects",
                "REVERIE_MODELS_DIR": str(models_dir),
                "REVERIE_MAX_ATTEMPTS": "3",
                "REVERIE_STALL_S": "10",
                "REVERIE_START_STALL_S": "30",
                "REVERIE_SCRATCH_BYTES": str(128 << 20),
                SOCKET: str(server_of(TRAINING).address),
            },
            modules={"trainer": "tests.faults.poison.trainer"},
        )
        opened.callback(fleet.stop)
        fleet.start_all(trainers=0)
        scratch = {} if disk is None else {"REVERIE_SCRATCH_DIR": str(disk / "scratch")}
        fleet.start("trainer-a", REVERIE_NODE="a", **scratch)
        fleet.start("trainer-b", REVERIE_NODE="b")
        host = Host(
            fleet=fleet,
            ada=new_tenant(fleet, "ada"),
            bob=new_tenant(fleet, "bob"),
            small_disk=disk,
        )
        host.train_healthy()  # everything is warm
        yield host


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Lines to print at the end."""
    lines: list[str] = []
    yield lines
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


@pytest.mark.deep
@pytest.mark.parametrize("name", POISONS)
def test_a_neighbours_run_is_admitted_and_succeeds(host: Host, table: list[str], name: str) -> None:
    poison = POISONS[name]
    with poison.hurt(host) as run_id:
        healthy = []
        while poison.is_long and host.row(run_id)["stage"] == "admission":
            healthy.append(host.train_healthy())
        healthy.append(host.train_healthy())
        if poison.waits is not None:
            assert host.ada.run(run_id)["waiting"]["code"] == poison.waits
    ended = host.end_of(run_id)

    code = ended["reason"].get("code", ended["status"])
    admitted_s, ended_s, ready_s = (
        max(getattr(each, fact) for each in healthy)
        for fact in ("admitted_s", "ended_s", "ready_s")
    )
    table.append(
        f"{name:40} ready {ready_s:5.2f} s  admitted {admitted_s:5.2f} s  ended {ended_s:6.2f} s"
        f"  {poison.waits or '-':24} {code}"
    )
    assert code == poison.code, host.fleet.tail("cache_builder")
    assert poison.says in ended["reason"].get("message", "")
    assert admitted_s <= ADMITTED_S
    assert ready_s <= READY_S
