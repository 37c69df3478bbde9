"""Images, the tiny base model and short real runs, which the checks of single fields share."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import HiDreamImageTransformer2DModel
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from tests.integration.plan_fields.files import CATS, CONFIG, LYCORIS, SIZES, Files
from tests.support.jobs import shorten_texts
from tests.support.zygote import Zygote
from trainer_core.base_models.describe import read_base_model
from trainer_core.base_models.obtain import find_base
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.data.length import steps_on
from trainer_core.data.orders import sampler_of
from trainer_core.data.sampler import Sampler
from trainer_core.engine.batch import Batch
from trainer_core.engine.loop import train
from trainer_core.engine.result import write_run_result
from trainer_core.engine.setup import LoadedRun, load_run
from trainer_core.engine.state import open_run
from trainer_core.export.card_facts import card_facts
from trainer_core.export.start_file import find_start
from trainer_core.hidream.parts import ModelParts
from trainer_core.local.attempt import Attempt
from trainer_core.local.cache import fill_cache
from trainer_core.local.data import LocalData, find_data_folders, scan
from trainer_core.local.run import LocalRun
from trainer_core.process.control import Control
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.job import Job
from trainer_core.progress import SilentReporter


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run, stopped after its last checkpoint, before its result."""

    folder: Path
    start: Mapping[str, torch.Tensor]
    """The trained parameters before step 1."""
    micro_batches: int
    """Forwards with gradients."""

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").open()]

    def reported(self, event: str, name: str) -> list[Any]:
        """One value of each event of that name."""
        return [each[name] for each in self.events if each["event"] == event]

    def parameters(self, step: int) -> dict[str, torch.Tensor]:
        """The trained parameters in the checkpoint of a step."""
        state = load_file(self.folder / f"checkpoints/step-{step:08d}/state.safetensors")
        prefix = "param/"
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def document(self, name: str) -> dict[str, Any]:
        """A JSON file in the run's folder."""
        found: dict[str, Any] = json.loads((self.folder / name).read_text())
        return found


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A few optimizer steps of the backend, without events and checkpoints."""

    start: Mapping[str, torch.Tensor]
    """The trained parameters before the first step."""
    after: Sequence[Mapping[str, torch.Tensor]]
    """The tensors after each step, with keys ``param/…``, ``ema/…`` and ``optim/…``."""
    grad_max: Sequence[float]

    def tensors(self, number: int, prefix: str, suffix: str = "") -> dict[str, torch.Tensor]:
        """Tensors after step ``number``, from 1, by parameter: those whose key has both affixes."""
        return {
            key.removeprefix(prefix).removesuffix(suffix): value
            for key, value in self.after[number - 1].items()
            if key.startswith(prefix) and key.endswith(suffix)
        }


class Environment:
    """What a run needs beside its plan: a base model, images, captions, masks and folders."""

    def __init__(self, folder: Path, models_dir: Path, zygote: Zygote) -> None:
        self.zygote = zygote
        self.folder = folder
        self.models_dir = models_dir
        self.base = read_base_model(models_dir / "hidream-tiny")
        self._runs: dict[str, TrainedRun] = {}
        for place, names in (("cats", SIZES), ("dogs", {"green_dog": (96, 96)})):
            for number, (name, size) in enumerate(names.items()):
                _draw_image(folder / place / f"{name}.png", size, number)
                (folder / place / f"{name}.txt").write_text(f"A {name.replace('_', ' ')}.\n")
        for name, (width, height) in SIZES.items():
            _draw_mask(folder / "masks" / f"{name}.png", width, height)

    def plan(self, files: Files) -> Plan:
        """The plan that the importer makes from the files."""
        config = {k: v for k, v in {**CONFIG, **files.config}.items() if v is not None}
        is_lokr = config["model_type"] == "lora" and config["lora_type"] == "lycoris"
        earlier = self.earlier_result(files)
        return import_run(
            config=config,
            lycoris_config={**LYCORIS, **files.lycoris} if is_lokr else None,
            data_backends=[{**CATS, **files.cats}, *map(dict, files.others)],
            prompt_library=None if files.prompts is None else dict(files.prompts),
            base_models={self.base.name: self.base},
            source="local",
            start=None if earlier is None else find_start(earlier),
        ).plan

    def earlier_result(self, files: Files) -> Path | None:
        """The result of the run that ``files`` start from."""
        return None if files.init_lora is None else self.result(self.plan(files.init_lora))

    def data(self, plan: Plan) -> LocalData:
        folders = find_data_folders(plan, (self.folder,))
        return scan(plan, folders, self.folder / "pictures.json", SilentReporter())

    def index(self, plan: Plan) -> DataIndex:
        return build_index(plan, self.data(plan).items, self.base.transformer_config)

    def sampler(self, plan: Plan) -> Sampler:
        return sampler_of(plan.identity, self.index(plan))

    def job(self, plan: Plan) -> Job:
        """A job of the plan; its entries are encoded, with short captions."""
        data, index, shards = self.data(plan), self.index(plan), self.folder / "shards"
        parts = ModelParts(self.base, torch.device("cpu"))
        if fill_cache(shards, index, parts, data.images, SilentReporter()):
            shorten_texts(shards)
        return Job(
            plan=plan,
            index=index,
            base_model_dir=str(self.base.folder),
            shards_dir=str(shards),
            output_dir=str(self.folder / "runs" / _name_of(plan)),
            resume_from=None,
            keep_checkpoints=100,
            shard_wait_s=1,
        )

    def load(self, plan: Plan) -> LoadedRun:
        """The run in memory, before its first step."""
        return load_run(self.job(plan), Control(None))

    def batches(self, plan: Plan, loaded: LoadedRun, count: int) -> list[Batch]:
        """The first micro-batches of the run."""
        sampler = self.sampler(plan)
        return [loaded.batches.training(sampler.micro_batch(i)) for i in range(count)]

    def steps(self, plan: Plan, count: int) -> Steps:
        """The first optimizer steps, all at the peak learning rate."""
        loaded, per_step = self.load(plan), plan.identity.accumulation_steps
        batches = self.batches(plan, loaded, count * per_step)
        start, after, grad_max = _copied(loaded.backend.tensors().parameters), [], []
        for step in range(1, count + 1):
            launched = loaded.backend.launch(
                batches[(step - 1) * per_step : step * per_step],
                count=per_step,
                step=step,
                learning_rate=plan.identity.optimizer.learning_rate,
            )
            grad_max.append(launched.read().grad_max)
            trained = loaded.backend.tensors()
            state = {f"param/{name}": value for name, value in trained.parameters.items()}
            state |= {f"ema/{name}": value for name, value in trained.ema.items()}
            after.append(_copied({**state, **trained.optimizer_state}))
        return Steps(start=start, after=after, grad_max=grad_max)

    def trained_run(self, plan: Plan) -> TrainedRun:
        """A run up to its last checkpoint; equal plans share one run."""
        key = _name_of(plan)
        if key not in self._runs:
            job = self.job(plan)
            loaded, control = load_run(job, Control(None)), Control(None)
            start, folder = _copied(loaded.backend.tensors().parameters), Path(job.output_dir)
            forwards = count_training_forwards(loaded.network.transformer)
            last_step = steps_on(plan.identity, job.index)
            with EventWriter(folder / "events.jsonl") as events:
                events.listen("stop", partial(_stop_after_checkpoint, last_step, control))
                train(open_run(job, loaded, events, control))
            self._runs[key] = TrainedRun(folder=folder, start=start, micro_batches=len(forwards))
        return self._runs[key]

    def result(self, plan: Plan) -> Path:
        """The result folder of a run before its first step."""
        loaded = self.load(plan)
        modules, size = loaded.network.trainable_modules, loaded.trainable_parameters
        facts = card_facts(
            plan,
            step=3,
            loss_before=None,
            loss_after={"mean": 1.0, "held_out_mean": None},
            trainable_parameters=size,
            trainable_modules=modules,
            weights="live",
            matmul="no_change",
        )
        return write_run_result(
            self.folder / "results" / _name_of(plan),
            plan=plan,
            step=3,
            transformer_config=loaded.network.transformer.config,
            parameters=loaded.backend.whole_parameters(),
            weights="live",
            sample=Image.new("RGB", (16, 16)),
            facts=facts,
        ).path

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def local_run(self, output: Path | None) -> LocalRun:
        return LocalRun(
            config={},
            lycoris_config=None,
            data_backends=[],
            prompt_library=None,
            folders=(self.folder,),
            output_dir=output,
            cache_dir=self.folder / "shards",
            events=None,
            control=None,
        )

    def run_locally(self, plan: Plan, output: Path, *, until: int | None = None) -> TrainedRun:
        """Train as ``reverie train`` does, up to the last checkpoint or the one of ``until``.

        ``output`` may hold an earlier run, which is then resumed.
        """
        last_step = steps_on(plan.identity, self.index(plan))
        stop = partial(_stop_after_checkpoint, until or last_step)
        return self._attempt(plan, output, "hidream-tiny", stop)

    def load_locally(self, plan: Plan, output: Path, base: str) -> TrainedRun:
        """Start as ``reverie train`` does on another base model; stop before it is loaded."""
        return self._attempt(plan, output, base, _stop_before_loading)

    def _attempt(
        self, plan: Plan, output: Path, base: str, stop: Callable[[Control, Event], None]
    ) -> TrainedRun:
        env = {
            "REVERIE_MODELS_DIR": str(self.models_dir),
            "REVERIE_HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }
        found, control = find_base(base, env=env, folders=(self.folder,)), Control(None)
        (output / "events.jsonl").unlink(missing_ok=True)
        with EventWriter(output / "events.jsonl") as events:
            events.listen("stop", partial(stop, control))
            attempt = Attempt(
                env=env,
                folders=self.local_run(output).folders,
                output_dir=output,
                # Its captions are whole: those of a job are shortened, and both are not one batch.
                cache_dir=self.folder / "whole_captions",
                node_cache=None,
                control=control,
                events=events,
                reporter=SilentReporter(),
            )
            attempt.train(plan, found, find_data_folders(plan, (self.folder,)))
        return TrainedRun(folder=output, start={}, micro_batches=0)


def count_training_forwards(transformer: HiDreamImageTransformer2DModel) -> list[bool]:
    """A list that grows by one entry with each forward with gradients."""
    forwards: list[bool] = []

    def note(*_: Any) -> None:
        if torch.is_grad_enabled():
            forwards.append(True)

    # Each forward embeds its image once.
    transformer.x_embedder.register_forward_pre_hook(note)
    return forwards


@cache
def stock_linears(environment: Environment) -> tuple[str, ...]:
    """Paths of the linear layers of diffusers' own transformer."""
    config = HiDreamImageTransformer2DModel.load_config(environment.base.folder / "transformer")
    with torch.device("meta"):
        stock = HiDreamImageTransformer2DModel.from_config(config)
    return tuple(name for name, part in stock.named_modules() if isinstance(part, nn.Linear))


def draw_of(seed: int, purpose: str, i: int, slot: int) -> torch.Generator:
    """The generator of one draw, seeded by a hash of seed, purpose, micro-batch and slot."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{i}\0{slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]))


def _stop_after_checkpoint(last_step: int, control: Control, event: Event) -> None:
    """The final validation loss and the sample image would take most of the time."""
    if event.name == "checkpoint" and event.step == last_step:
        control.request_stop()


def _stop_before_loading(control: Control, event: Event) -> None:
    if event.data.get("stage") == "loading":
        control.request_stop()


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _name_of(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:16]


def _draw_image(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)


def _draw_mask(path: Path, width: int, height: int) -> None:
    """The upper half has grey value 51 of 255; the rest is black."""
    path.parent.mkdir(exist_ok=True)
    mask = Image.new("L", (width, height), 0)
    mask.paste(51, (0, 0, width, height // 2))
    mask.save(path)
