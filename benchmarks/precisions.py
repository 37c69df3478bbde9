"""Whether training in 8 bits ends where bf16 ends: four precisions, three seeds of each.

    python -m benchmarks.precisions --output FILE [--device cpu --steps 20 --processes 2]

The precisions are bf16, int8-quanto, and int8-quanto with fp8 and with int8 products. Each training
takes 500 steps of `hidream-wide` (random weights) with the example's LoKr and Lion, on the example
photographs cropped to 128 px, four samples a step, through the trainer's own engine. A seed draws
the adapter's start, the order of the photographs, and the noise.

The fixed validation loss before and after has the same draws in all trainings, whatever their seed.
So the seeds are apart by what they trained, and not by what they were measured on. A run's own loss
would draw from its seed, and spread them more.

The file has a line with the machine, one for each training, and one for each pair of precisions.
The seeds of a precision are apart by their largest loss less their smallest; those of a pair by the
mean of both. Exit status 1 where the means of a pair are further apart than its seeds, where a
training's loss fell by less than the seeds are apart, or where one failed. A CPU has no 8-bit
products; there only the first two precisions run.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from benchmarks.trainer_matrix import EXAMPLES, environment
from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.known import WIDE_NAME
from trainer_core.base_models.obtain import obtain_base
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.data.indexing import build_index
from trainer_core.data.orders import samples_in_order
from trainer_core.documents import load_document
from trainer_core.engine.batch import BatchMaker
from trainer_core.engine.determinism import set_determinism, set_threads
from trainer_core.engine.evaluation import measure_loss
from trainer_core.engine.feed import Feed
from trainer_core.engine.loop import take_steps
from trainer_core.engine.setup import load_run
from trainer_core.engine.state import Run, TrainingState, open_run
from trainer_core.engine.throughput import Throughput
from trainer_core.hidream.loading import load_scheduler
from trainer_core.hidream.parts import ModelParts
from trainer_core.hidream.quiet import quieten_libraries
from trainer_core.hidream.timestep_sampling import AutoShift
from trainer_core.local.cache import fill_cache
from trainer_core.local.data import find_data_folders, scan
from trainer_core.precision.compute import choose_compute
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job
from trainer_core.progress import SilentReporter
from trainer_core.validation.fixed_loss import FixedLoss, evaluation_samples

PRECISIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "bf16": {"base_model_precision": "no_change"},
    "int8-quanto": {
        "base_model_precision": "int8-quanto",
        "base_model_matmul_precision": "no_change",
    },
    "fp8": {"base_model_precision": "int8-quanto", "base_model_matmul_precision": "fp8"},
    "int8": {"base_model_precision": "int8-quanto", "base_model_matmul_precision": "int8"},
}
_ON_CARDS: Final = ("fp8", "int8")
SEEDS: Final = (1, 2, 3)
_MEASURING_SEED: Final = 42
_EDGE_PX: Final = 128
_LEARNING_RATE: Final = 3e-3
_PACKAGES: Final = ("diffusers", "optimum-quanto", "torch-optimi")

Line = dict[str, Any]


def jobs(folder: Path, device: str, steps: int) -> Iterator[tuple[str, int, Job]]:
    """Precision, seed and job of each training; the data is encoded before the first."""
    base = obtain_base(WIDE_NAME, env=os.environ, folders=())
    plans = {
        (precision, seed): _plan(base, {**options, "seed": seed}, device, steps)
        for precision, options in PRECISIONS.items()
        if not (precision in _ON_CARDS and device == "cpu")
        for seed in SEEDS
    }
    plan = next(iter(plans.values()))  # all have the same data
    folders = find_data_folders(plan, (EXAMPLES.parent,))
    data = scan(plan, folders, folder / "pictures.json", SilentReporter())
    index = build_index(plan, data.items, base.transformer_config)
    home = choose_compute(plan.operation.device, plan.identity.precision).device
    parts = ModelParts(base, home)
    fill_cache(folder / "entries", index, parts, data.images, SilentReporter())
    for (precision, seed), each in plans.items():
        yield (
            precision,
            seed,
            Job(
                plan=each,
                index=index,
                base_model_dir=str(base.folder.absolute()),
                shards_dir=str(folder / "entries"),
                output_dir=str(folder / f"{precision}-{seed}"),
                resume_from=None,
                shard_wait_s=10,
            ),
        )


def _plan(base: BaseModel, options: Mapping[str, Any], device: str, steps: int) -> Plan:
    demo = EXAMPLES / "demo"
    raw: Any = load_document(demo / "config.json")
    backends: Any = load_document(demo / "multidatabackend.json")
    lycoris: Any = load_document(demo / "lycoris_config.json")
    # One shape, so that a step is captured once.
    square = {"crop": True, "crop_style": "center", "crop_aspect": "square"}
    sizes = ("resolution", "minimum_image_size", "maximum_image_size", "target_downsample_size")
    for backend in backends:
        if "instance_data_dir" in backend:
            backend.update(square | dict.fromkeys(sizes, _EDGE_PX))
    config = {
        **raw,
        "pretrained_model_name_or_path": base.name,
        "resolution": _EDGE_PX,
        "validation_resolution": str(_EDGE_PX),
        "train_batch_size": 4,
        "gradient_checkpointing": False,
        "learning_rate": _LEARNING_RATE,
        "max_train_steps": steps,
        "checkpoint_step_interval": steps + 1,
        "report_to": "none",
        "device": device,
        **options,
    }
    return import_run(
        config=config,
        lycoris_config=lycoris,
        data_backends=backends,
        prompt_library=None,
        base_models={base.name: base},
        source="local",
    ).plan


def train(job: Job) -> Line:
    """One training in this process; its losses before and after, and its seconds."""
    quieten_libraries()
    set_determinism(os.environ, job.plan.operation)
    control = Control(None)
    loaded = load_run(job, control)
    with EventWriter(Path(job.output_dir) / "events.jsonl") as events:
        run = open_run(job, loaded, events, control)
        measuring = _measured_alike(run)
        state = TrainingState(throughput=Throughput(run.last_step))
        before = measure_loss(measuring, state)
        started_s = time.monotonic()
        state.throughput.start(state.step)
        with Feed(run, state.step) as feed:
            take_steps(run, state, feed)
        train_s = time.monotonic() - started_s
        after = measure_loss(measuring, state)
    return {
        "products": loaded.matmul.reason,
        "train_s": round(train_s, 1),
        **_figures("before", before),
        **_figures("after", after),
    }


def _measured_alike(run: Run) -> Run:
    """The run with the evaluation samples and draws of a seed that all trainings share."""
    loaded, job = run.loaded, run.job
    batches = BatchMaker(
        job.index,
        loaded.entries,
        job.plan.identity.model_copy(update={"seed": _MEASURING_SEED}),
        loaded.vae,
        loaded.network.compute,
        auto_shift=AutoShift.of_scheduler(load_scheduler(Path(job.base_model_dir)).config),
    )
    return replace(
        run,
        loaded=replace(loaded, batches=batches),
        evaluation_samples=evaluation_samples(
            job.index, _MEASURING_SEED, samples_in_order(job.plan.identity, job.index)
        ),
    )


def _figures(when: str, loss: FixedLoss) -> Line:
    return {f"loss_{when}": loss.mean, f"held_out_{when}": loss.held_out_mean}


def comparisons(lines: Sequence[Line]) -> Iterator[Line]:
    """Each pair of precisions: how far apart their losses after training are, and their seeds."""
    losses = losses_by_precision(lines)
    for one, other in combinations(losses, 2):
        # The same seed trains on the same draws from the same start in both.
        differences = [losses[other][seed] - losses[one][seed] for seed in SEEDS]
        means_apart = abs(statistics.fmean(differences))
        seeds_apart = (apart(losses[one]) + apart(losses[other])) / 2
        falls = [line["loss_before"] - line["loss_after"] for line in lines]
        yield {
            "pair": [one, other],
            "means_apart": means_apart,
            "seeds_apart": seeds_apart,
            "same_seed_apart": max(map(abs, differences)),
            "least_fall": min(falls),
            "holds": means_apart <= seeds_apart < min(falls),
        }


def losses_by_precision(lines: Sequence[Line]) -> dict[str, dict[int, float]]:
    """Precision → seed → loss after training."""
    losses: dict[str, dict[int, float]] = {}
    for line in lines:
        losses.setdefault(line["precision"], {})[line["seed"]] = line["loss_after"]
    return {name: losses[name] for name in PRECISIONS if name in losses}


def apart(losses: Mapping[int, float]) -> float:
    """Largest less smallest."""
    return max(losses.values()) - min(losses.values())


def table(lines: Sequence[Line]) -> Iterator[str]:
    """The precisions as a Markdown table."""
    before = statistics.fmean(line["loss_before"] for line in lines)
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    yield f"| loss {before:.4f} → | {seeds} | mean | seeds apart |"
    yield f"| --- {'| --- ' * (len(SEEDS) + 2)}|"
    for precision, losses in losses_by_precision(lines).items():
        each = " | ".join(f"{losses[seed]:.4f}" for seed in SEEDS)
        mean = statistics.fmean(losses.values())
        yield f"| {precision} | {each} | {mean:.4f} | {apart(losses):.4f} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--steps", type=int, default=500, metavar="N")
    parser.add_argument("--processes", type=int, default=9, metavar="N", help="trainings at once")
    args = parser.parse_args()
    # Trainings at once, of small products: more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    set_threads(os.environ)
    quieten_libraries()
    with tempfile.TemporaryDirectory() as name, args.output.open("w") as file:
        os.environ.setdefault("REVERIE_HOME", f"{name}/home")

        def write(line: Line) -> None:
            print(json.dumps(line), flush=True)
            file.write(json.dumps(line) + "\n")
            file.flush()

        versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
        write({"machine": environment(), "versions": versions, "steps": args.steps})
        lines = []
        for line in _trained(Path(name), args.device, args.steps, args.processes):
            write(line)
            lines.append(line)
        if any("error" in line for line in lines):
            return 1
        pairs = list(comparisons(lines))
        for pair in pairs:
            write(pair)
    print("\n".join(table(lines)))
    return 0 if all(pair["holds"] for pair in pairs) else 1


def _trained(folder: Path, device: str, steps: int, processes: int) -> Iterator[Line]:
    """The line of each training, as they end."""
    # CUDA does not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {
            pool.submit(train, job): {"precision": precision, "seed": seed}
            for precision, seed, job in jobs(folder, device, steps)
        }
        for training in as_completed(running):
            error = training.exception()
            found = training.result() if error is None else {"error": repr(error)[:300]}
            yield running[training] | found


if __name__ == "__main__":
    sys.exit(main())
