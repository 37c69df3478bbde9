"""Two nodes that reach each other over a network: two namespaces with an interface each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.forking import TRAINING
from tests.support.jobs import events_in
from tests.support.ranks import full_job

pytestmark = pytest.mark.deep

NODES = ("first", "second")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Mapping[str, str]]:
    """Node → the name of its namespace, and of its interface."""
    names = {node: f"rv-{node}-{os.getpid() % 10_000}" for node in NODES}
    if shutil.which("ip") is None:
        pytest.skip("there is no program ip")
    try:
        for name in names.values():
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no namespace of the network can be made: {error.stderr.decode()}")
    first, second = names.values()
    ip("link", "add", first, "netns", first, "type", "veth", "peer", second, "netns", second)
    for node, name in names.items():
        ip("-n", name, "addr", "add", f"{address_of(node)}/24", "dev", name)
        ip("-n", name, "link", "set", name, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield names
    for name in names.values():
        ip("netns", "del", name)


def address_of(node: str) -> str:
    return f"10.77.0.{1 + NODES.index(node)}"


@pytest.fixture(scope="module")
def job(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return full_job(tiny_folder, tmp_path_factory.mktemp("shards"), Path("unused"))


def train(
    job: Mapping[str, Any], folder: Path, namespaces: Mapping[str, str], **fault: str
) -> tuple[list[int], str]:
    """Exit statuses of the two launchers, and what they printed."""
    (folder / "job.json").write_text(json.dumps({**job, "output_dir": str(folder / "output")}))
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{address_of('first')}:29400"]
    launchers = []
    for node, name in namespaces.items():
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "trainer_core", "launch"]
        # A namespace has no name that torchrun could look up to find out whether it is the host.
        command += ["--rdzv-conf", f"is_host={int(node == 'first')}"]
        command += ["--nnodes", "2", *rendezvous, "--local-addr", address_of(node)]
        command += ["--nproc-per-node", "1", "-m", "trainer_core", "train"]
        command += ["--job", str(folder / "job.json"), "--events", str(folder / "events.jsonl")]
        env = {**os.environ, **dict(TRAINING.env), "GLOO_SOCKET_IFNAME": name, **fault}
        with (folder / f"{node}.log").open("wb") as output:
            launchers.append(subprocess.Popen(command, env=env, stdout=output, stderr=output))
    statuses = [each.wait(timeout=240) for each in launchers]
    return statuses, "\n".join((folder / f"{node}.log").read_text() for node in NODES)


def test_two_nodes_train_to_the_end(
    job: dict[str, Any], tmp_path: Path, namespaces: Mapping[str, str]
) -> None:
    statuses, said = train(job, tmp_path, namespaces)

    assert statuses == [0, 0], said
    assert events_in(tmp_path)[-1]["event"] == "finished"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_both_nodes(
    job: dict[str, Any], tmp_path: Path, namespaces: Mapping[str, str], rank: int
) -> None:
    fault = {"FAULT_AT": "train.before_step@2=kill", "FAULT_RANK": str(rank)}

    statuses, said = train(job, tmp_path, namespaces, **fault)

    assert statuses == [1, 1], said
    last = events_in(tmp_path)[-1]
    assert (last["event"], last["code"], last["category"]) == ("failed", "child_died", "infra")
    assert last["message"].startswith(f"rank {rank}: ")
