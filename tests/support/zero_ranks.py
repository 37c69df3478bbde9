"""A few optimizer steps of the tiny model under DeepSpeed on 1 or more ranks, each its own process.

The micro-batches are random, and the same for every number of ranks.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tests.support.forking import TRAINING, start_module
from trainer_core.checkpoint.layout import state_names
from trainer_core.checkpoint.read import StoredTensors
from trainer_core.checkpoint.state_files import state_in
from trainer_core.checkpoint.write import TrainedTensors
from trainer_core.checkpoint.write_state import write_state
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import Backend, SingleProcess
from trainer_core.engine.step_metrics import StepMetrics
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import Network, prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute

MICRO_BATCHES = 4
"""Of each step, shared among the ranks."""
_CPU = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
_DEADLINE_S = 240


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of the steps; the tensors have the keys of a checkpoint."""

    tensors: Mapping[str, torch.Tensor]
    metrics: Sequence[StepMetrics]
    losses_with_means: Sequence[float]
    """Of one batch: with the means in place of the weights, and afterwards."""
    preparation: Sequence[str]
    """What the backend told before the first step."""


def in_one_process(tiny: Path, plan: Plan, steps: int) -> Taken:
    """The steps without DeepSpeed, in this process."""
    network = tiny_network(tiny, plan)
    return _take_steps(SingleProcess(network, plan), plan, steps)


def on_ranks(tiny: Path, plan: Plan, steps: int, ranks: int, folder: Path) -> Taken:
    """The steps under DeepSpeed; ``folder`` gets the files of the processes."""
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "steps.json"
    asked = {"tiny": str(tiny), "plan": plan.model_dump(mode="json"), "steps": steps}
    job.write_text(json.dumps(asked))
    run_ranks(__name__, [job, folder], ranks, folder)
    told = json.loads((folder / "taken.json").read_text())
    return Taken(
        tensors=stored_tensors(folder, state_names(ranks)),
        metrics=[StepMetrics(**each) for each in told["metrics"]],
        losses_with_means=told["losses_with_means"],
        preparation=told["preparation"],
    )


def run_ranks(module: str, argv: Sequence[Path], ranks: int, folder: Path) -> None:
    """Run ``python -m MODULE ARGV`` as each of the ranks; ``folder`` gets what they print."""
    port = str(_free_port())
    logs = [folder / f"rank-{rank}.log" for rank in range(ranks)]
    processes = []
    for rank, log in enumerate(logs):
        own = {
            **dict(TRAINING.env),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
        }
        with log.open("wb") as output:
            env, texts = {**os.environ, **own}, [str(each) for each in argv]
            processes.append(start_module(module, texts, env=env, output=output, kind=TRAINING))
    statuses = [process.wait(timeout=_DEADLINE_S) for process in processes]
    assert not any(statuses), "\n".join(log.read_text()[-2000:] for log in logs)


def stored_tensors(folder: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The whole tensors in the state files of a checkpoint, by their names there."""
    state = state_in(folder, names)
    return dict(StoredTensors(folder, state, "", list(state.tensors)))


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def tiny_network(tiny: Path, plan: Plan, weights: torch.dtype = torch.float32) -> Network:
    torch.manual_seed(0)
    transformer = load_transformer(tiny, weights)
    return prepare(transformer, plan, replace(_CPU, weights=weights), matmul="no_change")


def _take_steps(backend: Backend, plan: Plan, steps: int) -> Taken:
    share = MICRO_BATCHES // backend.ranks
    metrics = []
    for step in range(1, steps + 1):
        first = (step - 1) * MICRO_BATCHES + backend.rank * share
        launched = backend.launch(
            [_batch_of(first + number) for number in range(share)],
            count=MICRO_BATCHES,
            step=step,
            learning_rate=plan.identity.optimizer.learning_rate,
        )
        metrics.append(launched.read())
    with torch.no_grad():
        with backend.with_means():
            losses = [backend.losses(_batch_of(0)).mean().item()]
        losses.append(backend.losses(_batch_of(0)).mean().item())
    return Taken(
        tensors=_keyed(backend.tensors()),
        metrics=metrics,
        losses_with_means=losses,
        preparation=backend.preparation,
    )


def _keyed(trained: TrainedTensors) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trained.by_file_name().items()}


def _batch_of(number: int) -> Batch:
    draw = torch.Generator().manual_seed(number)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return Batch(
        noisy_BCHW=normal(1, 16, 4, 4),
        target_BCHW=normal(1, 16, 4, 4),
        sigmas_B=torch.rand(1, generator=draw),
        text=TextEmbeddings(normal(1, 4, 48), normal(1, 3, 4, 64), normal(1, 64)),
    )


def main(argv: Sequence[str]) -> int:
    """Take the steps as one rank: ``JOB FOLDER``. Rank 0 writes what became of them."""
    from trainer_core.engine.zero_open import open_zero

    asked: dict[str, Any] = json.loads(Path(argv[0]).read_text())
    plan, folder = Plan.model_validate(asked["plan"]), Path(argv[1])
    backend = open_zero(tiny_network(Path(asked["tiny"]), plan), plan, image_px=32**2)
    taken = _take_steps(backend, plan, asked["steps"])
    name = state_names(backend.ranks)[backend.rank]
    write_state(folder / name, taken.tensors, backend.tensors().parts)
    if backend.rank == 0:
        told = {
            "metrics": [asdict(each) for each in taken.metrics],
            "losses_with_means": taken.losses_with_means,
            "preparation": taken.preparation,
        }
        (folder / "taken.json").write_text(json.dumps(told))
    backend.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
