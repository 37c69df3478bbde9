"""Several ranks of the train command, started by launchers of one or of two nodes."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.processes.tree import is_alive
from tests.support.forked_training import child_command
from tests.support.forking import TRAINING, Process, server_of, start_module
from tests.support.jobs import make_job
from trainer_core.process.stat import identify, read_stat

END_S = 15
"""Within so many seconds after one rank has failed, all have ended."""


def full_job(tiny: Path, shards: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Every weight is trained, under ZeRO, four micro-batches a step."""
    full: dict[str, Any] = {
        "model_type": "full",
        "lora_type": None,
        "lycoris_config": None,
        "base_model_precision": "no_change",
        "mixed_precision": "no",
        "optimizer": "adamw_bf16",
        "grad_clip_method": "norm",
        "max_grad_norm": 1.0,
        "max_train_steps": 4,
        "checkpoint_step_interval": 2,
        "lr_warmup_steps": 2,
        "gradient_accumulation_steps": 4,
        "zero_stage": 2,
    }
    return make_job(tiny, shards, folder, edge_px=64, count=2, **{**full, **options})


def launch(
    job: Mapping[str, Any],
    folder: Path,
    fault: Mapping[str, str] | None = None,
    *,
    ranks: int = 2,
    node: str = "output",
    options: Sequence[str] = ("--rdzv-endpoint", "127.0.0.1:0"),
    arguments: Sequence[str] = (),
) -> Process:
    """Start a launcher and its ranks; events, control and logs are in ``folder``.

    Args:
        job: what to train.
        folder: all nodes of a run share it.
        fault: environment of the ranks, see ``faultpoints``.
        ranks: of this node.
        node: its log is ``NODE.log``.
        options: further ones of the launcher.
        arguments: further ones of the train command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    program = child_command(server_of(TRAINING).address)[-2:]
    argv = ["launch", "--rdzv-backend", "c10d", *options, "--nproc-per-node", str(ranks), *program]
    argv += ["train", "--job", str(folder / "job.json"), *arguments]
    argv += ["--events", str(folder / "events.jsonl"), "--control", str(folder / "control")]
    env = {**os.environ, **dict(TRAINING.env), **(fault or {})}
    with (folder / f"{node}.log").open("wb") as output:
        return start_module("trainer_core", argv, env=env, output=output, kind=TRAINING)


def two_nodes() -> tuple[str, ...]:
    """Options of the launchers of two nodes that meet at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}")


def children_of(launcher: int) -> list[int]:
    """The processes that a launcher has started; each ends when its rank does."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat is not None and stat.parent_pid == launcher:
                found.append(int(entry.name))
    return found


def all_end(pids: Sequence[int]) -> bool:
    """Whether all of these processes end in time."""
    processes = [each for each in map(identify, pids) if each is not None]
    end_s = time.monotonic() + END_S
    while time.monotonic() < end_s:
        if not any(map(is_alive, processes)):
            return True
        time.sleep(0.05)  # they are no children of this process, which could be waited for
    return False
