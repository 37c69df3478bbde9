"""Steps of an adapter on one of several ranks, without data: ``python -m … TINY FOLDER EARLIER``.

Each rank is a process of its own, as ``start_ranks`` starts it. What it has after the steps of each
case is written to ``FOLDER/rank-N.safetensors``, and what the steps told to ``rank-N.json``. What
``EARLIER`` has of a case is loaded into new weights, and has to be the same bits afterwards.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from safetensors.torch import load_file, save_file

from tests.support.forking import TRAINING, start_module
from tests.support.jobs import demo_plan
from tests.support.networks import network_of
from tests.support.ports import free_port
from trainer_core.adapters.attach import attach_adapter
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.layout import CheckpointManifest
from trainer_core.checkpoint.read import Checkpoint
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.data_parallel import DataParallel
from trainer_core.engine.graphs import Graphs, Run
from trainer_core.engine.ranks import Ranks
from trainer_core.engine.step import SingleProcess
from trainer_core.errors import DeviceError, NonFiniteLossError
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import place_base
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.optim import guarded
from trainer_core.precision.compute import Compute

CPU: Final = torch.device("cpu")
PER_STEP: Final = 4
"""Micro-batches of a step, on all ranks together."""
_DEADLINE_S: Final = 240
_LORA: Final = {"lora_type": "standard", "lora_rank": 4, "lora_alpha": 4, "lycoris_config": None}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and how."""

    lora: bool = False
    base: str = "no_change"
    optimizer: str = "adamw"
    clip: str = "norm"
    dtype: str = "float32"
    steps: int = 3
    graphs: bool = False
    """In parts that a device would repeat from graphs; here they are called again."""

    def __str__(self) -> str:
        kind = "lora" if self.lora else "lokr"
        own = (kind, self.base, self.optimizer, self.clip, self.dtype)
        return "-".join((*own, "graphs") if self.graphs else own)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one rank had of a case."""

    tensors: Mapping[str, torch.Tensor]
    metrics: Sequence[Mapping[str, Any]]
    """Of each step."""


def start_ranks(
    tiny: Path, folder: Path, cases: Sequence[Case], count: int, earlier: Path | None = None
) -> list[list[Taken]]:
    """Run the cases on ``count`` ranks; for each rank, what it had of each case.

    ``earlier``: the folder of such a run, whose weights and states the ranks load.
    """
    folder.mkdir()
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    env = {**os.environ, **dict(TRAINING.env), "WORLD_SIZE": str(count)}
    env |= {"LOCAL_WORLD_SIZE": str(count)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    logs = [folder / f"rank-{rank}.log" for rank in range(count)]
    processes = []
    for rank, log in enumerate(logs):
        own = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as output:
            argv = [str(tiny), str(folder), str(earlier or folder)]
            processes.append(start_module(__name__, argv, env=own, output=output, kind=TRAINING))
    for process, log in zip(processes, logs, strict=True):
        assert process.wait(_DEADLINE_S) == 0, log.read_text()[-2000:]
    return [_read(folder, rank, cases) for rank in range(count)]


def _read(folder: Path, rank: int, cases: Sequence[Case]) -> list[Taken]:
    tensors = load_file(folder / f"rank-{rank}.safetensors")
    told = json.loads((folder / f"rank-{rank}.json").read_text())
    return [
        Taken(
            tensors=_of(case, tensors),
            metrics=told[str(case)],
        )
        for case in cases
    ]


def _of(case: Case, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = f"{case}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def main(tiny: Path, folder: Path, earlier: Path) -> None:
    """One rank."""
    count = int(os.environ["WORLD_SIZE"])
    ranks = Ranks(CPU) if count > 1 else None
    rank = 0 if ranks is None else ranks.rank
    tensors: dict[str, torch.Tensor] = {}
    told: dict[str, Any] = {}
    saved = {} if earlier == folder else load_file(earlier / "rank-0.safetensors")
    for case in (Case(**each) for each in json.loads((folder / "cases.json").read_text())):
        backend = _backend(tiny, case, ranks)
        told[str(case)] = list(_steps(backend, case))
        tensors |= {f"{case}/{name}": value for name, value in _held(backend).items()}
        if ranks is not None:
            _check_failures(backend, case)
        if saved:
            _check_load(_backend(tiny, case, ranks), _of(case, saved))
    save_file(tensors, folder / f"rank-{rank}.safetensors")
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))
    if ranks is not None:
        ranks.leave()


def _backend(tiny: Path, case: Case, ranks: Ranks | None) -> SingleProcess:
    """On fresh weights, with a mean (EMA)."""
    plan = demo_plan(read_base_model(tiny), edge_px=64, **(_LORA if case.lora else {}))
    body = plan.model_dump(mode="json")
    body["identity"]["clip"] = {"method": case.clip, "limit": 1e-3}
    body["identity"]["ema"] = {"decay": 0.5, "warmup_steps": 0, "update_interval": 1}
    body["identity"]["optimizer"]["name"] = case.optimizer
    plan, dtype = Plan.model_validate(body), getattr(torch, case.dtype)
    transformer = load_transformer(tiny, dtype).train()
    place_base(transformer, case.base, "cpu", CPU)  # type: ignore[arg-type] - a name of the plan's
    assert plan.identity.adapter is not None
    adapter = attach_adapter(transformer, plan.identity.adapter, seed=3)
    draw = torch.Generator().manual_seed(5)
    for parameter in adapter.parameters().values():
        # None at 0, where half of the gradients would be 0, too.
        noise = 0.02 * torch.randn(parameter.shape, generator=draw)
        parameter.data = (parameter.data + noise).to(dtype)
    compute = Compute(device=CPU, weights=dtype, is_autocast=False)
    network = network_of(transformer, adapter, compute=compute)
    if ranks is None:
        return SingleProcess(network, plan)
    backend = DataParallel(network, plan, ranks)
    # The host of a device does not know whether a step was healthy.
    guarded.host_knows = _knows if case.graphs else _KNOWS
    if case.graphs:
        backend._graphs = Graphs(_Repeating(), warn=_no_warning)
    return backend


_KNOWS: Final = guarded.host_knows


def _knows(flag: torch.Tensor) -> bool:
    return False


def _no_warning(message: str) -> NoReturn:
    raise AssertionError(message)


class _Repeating:
    """Captures work by keeping it."""

    def make_room(self) -> None:
        pass

    def capture(self, run: Run) -> Run:
        return run

    def run_beside(self, run: Run) -> None:
        run()

    def clear(self) -> None:
        pass


def _steps(backend: SingleProcess, case: Case) -> Iterator[dict[str, Any]]:
    for step in range(1, case.steps + 1):
        own = _own(backend, case, step)
        launched = backend.launch(own, count=PER_STEP, step=step, learning_rate=1e-3)
        yield asdict(launched.read())


def _own(backend: SingleProcess, case: Case, step: int) -> list[Batch]:
    """The micro-batches of a step that are this rank's."""
    of_step = range(PER_STEP * (step - 1), PER_STEP * step)
    return [_batch(i, case) for i in of_step[backend.rank :: backend.ranks]]


def _batch(i: int, case: Case) -> Batch:
    draw, dtype = torch.Generator().manual_seed(i), getattr(torch, case.dtype)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    return Batch(
        noisy_BCHW=normal(2, 16, 4, 6),
        target_BCHW=normal(2, 16, 4, 6),
        sigmas_B=torch.rand(2, generator=draw),
        text=TextEmbeddings(normal(2, 5, 48), normal(2, 3, 5, 64), normal(2, 64)),
    )


def _held(backend: SingleProcess) -> dict[str, torch.Tensor]:
    """Copies of everything that a checkpoint would hold."""
    trained = backend.tensors()
    found = {f"param/{name}": value for name, value in trained.parameters.items()}
    found |= {f"ema/{name}": value for name, value in trained.ema.items()}
    return {name: value.clone() for name, value in {**found, **trained.optimizer_state}.items()}


def _check_load(backend: SingleProcess, saved: dict[str, torch.Tensor]) -> None:
    """A checkpoint of any number of ranks is loaded bit for bit."""
    parts: dict[str, dict[str, torch.Tensor]] = {"param": {}, "ema": {}, "optim": {}}
    for key, value in saved.items():
        kind, _, name = key.partition("/")
        if kind in ("param", "ema"):
            parts[kind][name] = value
        else:
            parts["optim"][key] = value
    manifest = CheckpointManifest.model_construct()
    backend.load(
        Checkpoint(
            manifest=manifest,
            parameters=parts["param"],
            optimizer_state=parts["optim"],
            ema=parts["ema"],
        )
    )
    held = _held(backend)
    assert held.keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in held.items())


def _check_failures(backend: SingleProcess, case: Case) -> None:
    """A number of the last rank that is not finite stops all ranks, and nothing is changed.

    Afterwards the last rank has one other bit than the others, which all of them are told.
    """
    before, step = _held(backend), case.steps + 1
    own, is_last = _own(backend, case, step), backend.rank == backend.ranks - 1
    if is_last:
        own[-1].target_BCHW[0, 0, 0, 0] = float("nan")
    try:
        backend.launch(own, count=PER_STEP, step=step, learning_rate=1e-3).read()
    except NonFiniteLossError as error:
        assert error.message.startswith(f"step {step}: loss nan"), error.message  # noqa: PT017
    else:
        raise AssertionError("the step had a loss that is not finite")
    after = _held(backend)
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    if is_last:
        value = backend._parameters.leaves[0].data
        value[0] = torch.nextafter(value[0], torch.zeros_like(value[0]))
    try:
        backend.tensors()
    except DeviceError as error:
        assert "different weights" in error.message  # noqa: PT017
    else:
        raise AssertionError("the ranks hold different weights")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
