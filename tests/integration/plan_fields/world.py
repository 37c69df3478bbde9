"""Pictures, the tiny base model and short real runs for the checks of single fields of the plan."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import HiDreamImageTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.zygote import Zygote
from trainer_core.base_models.describe import read_base_model
from trainer_core.base_models.obtain import find_base
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.data.sampler import Sampler
from trainer_core.engine.batch import Batch
from trainer_core.engine.loop import train
from trainer_core.engine.result import write_run_result
from trainer_core.engine.setup import LoadedRun, load_run
from trainer_core.engine.state import open_run
from trainer_core.export.card_facts import card_facts
from trainer_core.local.attempt import Attempt
from trainer_core.local.cache import fill_cache
from trainer_core.local.data import LocalData, find_data_folders, scan
from trainer_core.local.run import LocalRun
from trainer_core.process.control import Control
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.job import Job
from trainer_core.progress import SilentReporter

TOKENS: Final = 8
"""Of each caption; most of the time would go into the others."""
RATE: Final = 0.01

CONFIG: Final[Mapping[str, Any]] = {
    "model_family": "hidream",
    "model_type": "lora",
    "lora_type": "lycoris",
    "pretrained_model_name_or_path": "hidream-tiny",
    "seed": 42,
    "device": "cpu",
    "mixed_precision": "no",
    "resolution": 64,
    "max_train_steps": 3,
    "train_batch_size": 1,
    "optimizer": "torch-adamw",
    "learning_rate": RATE,
    "adam_weight_decay": 0,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "max_grad_norm": 0,
    "caption_dropout_probability": 0,
    "flow_schedule_shift": 0,
    "gradient_checkpointing": False,
    "use_ema": True,
    "ema_decay": 0.2,
    "checkpoint_step_interval": 1,
    "validation_prompt": "a green dog",
    "validation_negative_prompt": "blurry",
    "validation_num_inference_steps": 2,
    "validation_guidance": 3.0,
    "validation_resolution": "64x128",
    "validation_seed": 7,
    "output_dir": "out",
}
LYCORIS: Final[Mapping[str, Any]] = {
    "algo": "lokr",
    "full_matrix": True,
    "factor": 4,
    "use_scalar": False,
    "apply_preset": {"target_module": ["Attention"]},
}
CATS: Final[Mapping[str, Any]] = {
    "id": "cats",
    "type": "local",
    "instance_data_dir": "cats",
    "caption_strategy": "textfile",
}
DOGS: Final[Mapping[str, Any]] = {**CATS, "id": "dogs", "instance_data_dir": "dogs"}
MASKS: Final[Mapping[str, Any]] = {
    "id": "masks",
    "type": "local",
    "dataset_type": "conditioning",
    "conditioning_type": "mask",
    "instance_data_dir": "masks",
}
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "black_cat": (96, 96),
    "red_cat": (126, 100),
    "tall_cat": (48, 144),
    "white_cat": (128, 128),
}
"""Pictures of ``cats``, width and height; all but the tall one are square in buckets of 64 px."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """What differs from the files above."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """None takes an entry out."""
    lycoris: Mapping[str, Any] = field(default_factory=dict)
    cats: Mapping[str, Any] = field(default_factory=dict)
    others: Sequence[Mapping[str, Any]] = ()
    """Further backends."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A run from its start to its result."""

    folder: Path
    start: Mapping[str, torch.Tensor]
    """What is trained, before step 1."""
    micro_batches: int
    """That went through the model to be learned from."""

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").open()]

    def reported(self, event: str, name: str) -> list[Any]:
        """One number of each event of that kind."""
        return [each[name] for each in self.events if each["event"] == event]

    def parameters(self, step: int) -> dict[str, torch.Tensor]:
        """What the checkpoint after that step holds of the trained parameters."""
        state = load_file(self.folder / f"checkpoints/step-{step:08d}/state.safetensors")
        prefix = "param/"
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def document(self, name: str) -> dict[str, Any]:
        """One JSON file of the run's folder."""
        found: dict[str, Any] = json.loads((self.folder / name).read_text())
        return found


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A few updates, without a run around them."""

    start: Mapping[str, torch.Tensor]
    """What is trained, before the first."""
    after: Sequence[Mapping[str, torch.Tensor]]
    """After each: ``param/…``, ``ema/…``, ``optim/…``."""
    grad_max: Sequence[float]

    def part(self, number: int, prefix: str, suffix: str = "") -> dict[str, torch.Tensor]:
        """Those tensors after update ``number``, counted from 1, by parameter."""
        return {
            key.removeprefix(prefix).removesuffix(suffix): value
            for key, value in self.after[number - 1].items()
            if key.startswith(prefix) and key.endswith(suffix)
        }


class World:
    """Everything that a run needs beside its plan."""

    def __init__(self, folder: Path, models_dir: Path, start_zygote: Callable[[], Zygote]) -> None:
        """``start_zygote`` is called at most once, by the first check that wants a process."""
        self._start_zygote = start_zygote
        self.folder = folder
        self.models_dir = models_dir
        self.base = read_base_model(models_dir / "hidream-tiny")
        self._traces: dict[str, Trace] = {}
        for place, names in (("cats", SIZES), ("dogs", {"green_dog": (96, 96)})):
            for number, (name, size) in enumerate(names.items()):
                _draw(folder / place / f"{name}.png", size, number)
                (folder / place / f"{name}.txt").write_text(f"A {name.replace('_', ' ')}.\n")
        for name, (width, height) in SIZES.items():
            _half_grey(folder / "masks" / f"{name}.png", width, height)

    @cached_property
    def zygote(self) -> Zygote:
        """Starts processes that have imported torch and run none of its operations."""
        return self._start_zygote()

    def plan(self, files: Files) -> Plan:
        """The plan that the importer makes of the files."""
        config = {k: v for k, v in {**CONFIG, **files.config}.items() if v is not None}
        is_lokr = config["model_type"] == "lora" and config["lora_type"] == "lycoris"
        return import_run(
            config=config,
            lycoris_config={**LYCORIS, **files.lycoris} if is_lokr else None,
            data_backends=[{**CATS, **files.cats}, *map(dict, files.others)],
            prompt_library=None,
            base_models={self.base.name: self.base},
            source="local",
        ).plan

    def data(self, plan: Plan) -> LocalData:
        folders = find_data_folders(plan, (self.folder,))
        return scan(plan, folders, self.folder / "pictures.json", SilentReporter())

    def index(self, plan: Plan) -> DataIndex:
        return build_index(plan, self.data(plan).items, self.base.transformer_config)

    def sampler(self, plan: Plan) -> Sampler:
        return Sampler(self.index(plan), plan.identity.seed, plan.identity.micro_batch_size)

    def job(self, plan: Plan) -> Job:
        """With its shards encoded."""
        data, index, shards = self.data(plan), self.index(plan), self.folder / "shards"
        cpu = torch.device("cpu")
        if fill_cache(shards, index, self.base, data.images, device=cpu, reporter=SilentReporter()):
            _shorten_texts(shards)
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

    def parts(self, plan: Plan) -> LoadedRun:
        """The run in memory, before its first step."""
        return load_run(self.job(plan), Control(None))

    def batches(self, plan: Plan, parts: LoadedRun, count: int) -> list[Batch]:
        """The first micro-batches."""
        sampler = self.sampler(plan)
        return [parts.batches.training(sampler.micro_batch(i)) for i in range(count)]

    def steps(self, plan: Plan, count: int) -> Steps:
        """Some updates of the backend at the peak of the learning rate."""
        parts, per_step = self.parts(plan), plan.identity.accumulation_steps
        batches = self.batches(plan, parts, count * per_step)
        start, after, grad_max = _copied(parts.backend.tensors().parameters), [], []
        for step in range(1, count + 1):
            figures = parts.backend.update(
                batches[(step - 1) * per_step : step * per_step],
                count=per_step,
                step=step,
                learning_rate=plan.identity.optimizer.learning_rate,
            )
            grad_max.append(figures.grad_max)
            trained = parts.backend.tensors()
            state = {f"param/{name}": value for name, value in trained.parameters.items()}
            state |= {f"ema/{name}": value for name, value in trained.ema.items()}
            after.append(_copied({**state, **trained.optimizer_state}))
        return Steps(start=start, after=after, grad_max=grad_max)

    def trace(self, plan: Plan) -> Trace:
        """A run up to its last checkpoint; equal plans share one."""
        key = _name_of(plan)
        if key not in self._traces:
            job = self.job(plan)
            parts, control = load_run(job, Control(None)), Control(None)
            start, folder = _copied(parts.backend.tensors().parameters), Path(job.output_dir)
            forwards = count_trained(parts.network.transformer)
            with EventWriter(folder / "events.jsonl") as events:
                events.listen("the end", partial(_stop_after_the_last, plan, control))
                train(open_run(job, parts, events, control))
            self._traces[key] = Trace(folder=folder, start=start, micro_batches=len(forwards))
        return self._traces[key]

    def result(self, plan: Plan) -> Path:
        """The folder of the result of a run that has not learned anything."""
        parts = self.parts(plan)
        modules, size = parts.network.trainable_modules, parts.trainable_parameters
        facts = card_facts(
            plan,
            loss_before=None,
            loss_after={"mean": 1.0, "held_out_mean": None},
            trainable_parameters=size,
            trainable_modules=modules,
            weights="trained",
        )
        return write_run_result(
            self.folder / "results" / _name_of(plan),
            plan=plan,
            transformer_config=parts.network.transformer.config,
            parameters=parts.backend.tensors().parameters,
            weights="trained",
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

    def locally(
        self, plan: Plan, output: Path, *, base: str = "hidream-tiny", trains: bool = True
    ) -> Trace:
        """As ``reverie train`` carries a plan out, in a folder that may hold an earlier run, up to
        its last checkpoint; without ``trains`` only until the model is loaded."""
        env = {"REVERIE_MODELS_DIR": str(self.models_dir), "REVERIE_HOME": str(self.folder)}
        env["OMP_NUM_THREADS"] = "1"
        found = find_base(base, env=env, folders=(self.folder,))
        (output / "events.jsonl").unlink(missing_ok=True)
        with EventWriter(output / "events.jsonl") as events:
            control = Control(None)
            events.listen("the end", partial(_stop_after_the_last, plan, control))
            if not trains:
                events.listen("the start", partial(_stop_at_loading, control))
            attempt = Attempt(
                env=env,
                folders=self.local_run(output).folders,
                output_dir=output,
                cache_dir=self.folder / "shards",
                control=control,
                events=events,
                reporter=SilentReporter(),
            )
            attempt.train(plan, found, find_data_folders(plan, (self.folder,)))
        return Trace(folder=output, start={}, micro_batches=0)


def count_trained(transformer: HiDreamImageTransformer2DModel) -> list[bool]:
    """Grows by one with each forward that keeps what its gradient needs."""
    forwards: list[bool] = []

    def note(*_: Any) -> None:
        if torch.is_grad_enabled():
            forwards.append(True)

    # Each forward embeds its image once.
    transformer.x_embedder.register_forward_pre_hook(note)
    return forwards


@cache
def stock_linears(world: World) -> tuple[str, ...]:
    """Paths of the linear layers of diffusers' own transformer."""
    config = HiDreamImageTransformer2DModel.load_config(world.base.folder / "transformer")
    with torch.device("meta"):
        stock = HiDreamImageTransformer2DModel.from_config(config)
    return tuple(name for name, part in stock.named_modules() if isinstance(part, nn.Linear))


def draw_of(seed: int, purpose: str, i: int, slot: int) -> torch.Generator:
    """The generator of one draw: seeded by a hash of the seed, what it is for, i and sample."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{i}\0{slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]))


def _stop_after_the_last(plan: Plan, control: Control, event: Event) -> None:
    """The closing questions and the picture would take most of the time."""
    if event.name == "checkpoint" and event.step == plan.identity.max_train_steps:
        control.request_stop()


def _stop_at_loading(control: Control, event: Event) -> None:
    if event.data.get("stage") == "loading":
        control.request_stop()


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _name_of(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:16]


def _draw(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)


def _half_grey(path: Path, width: int, height: int) -> None:
    """The upper half at 51 of 255, the rest black."""
    path.parent.mkdir(exist_ok=True)
    mask = Image.new("L", (width, height), 0)
    mask.paste(51, (0, 0, width, height // 2))
    mask.save(path)


def _shorten_texts(shards: Path) -> None:
    for path in shards.glob("*.safetensors"):
        tensors = load_file(path)
        if "llama" in tensors and tensors["t5"].shape[1] > TOKENS:
            tensors["t5"] = tensors["t5"][:, :TOKENS].contiguous()
            tensors["llama"] = tensors["llama"][:, :, :TOKENS].contiguous()
            save_file(tensors, path)
