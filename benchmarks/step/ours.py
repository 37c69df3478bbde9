"""Our training step, made as a run makes it."""

import time
from collections.abc import Iterator

import torch
from diffusers import HiDreamImageTransformer2DModel

from benchmarks.step.cases import Case
from benchmarks.step.measure import Gradient
from benchmarks.step.plans import LEARNING_RATE, plan_of
from benchmarks.step.setting import Setting
from benchmarks.step.weights import fill_adapter, random_base, random_model
from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.matmul import pick_matmul, picks_fp8
from trainer_core.engine.batch import Batch
from trainer_core.engine.data_parallel import DataParallel
from trainer_core.engine.pending import Pending
from trainer_core.engine.ranks import Ranks
from trainer_core.engine.step import Backend, SingleProcess
from trainer_core.hidream.network import prepare
from trainer_core.memory.card_fit import CardRun, require_fit
from trainer_core.memory.card_plan import CardPlan, host_linears
from trainer_core.precision.compute import capability_of, choose_compute


class Launching:
    """Takes steps as a run does: the numbers of a step are read once the next one is launched."""

    prepared_s = 0.0

    def __init__(self, backend: Backend, learning_rate: float) -> None:
        """A step has one micro-batch of each of the backend's ranks."""
        self._backend = backend
        self._learning_rate = learning_rate
        self._steps = 0
        self._last: Pending | None = None

    def step(self, batch: Batch) -> None:
        """As ``Steps.step``."""
        self._steps += 1
        launched = self._backend.launch(
            [batch],
            count=self._backend.ranks,
            step=self._steps,
            learning_rate=self._learning_rate,
        )
        self.wait()
        self._last = launched

    def wait(self) -> None:
        """As ``Steps.wait``."""
        if self._last is not None:
            self._last.read()
            self._last = None


class Ours:
    """A prepared network and its backend."""

    def __init__(self, case: Case, setting: Setting, ranks: Ranks | None = None) -> None:
        """``ranks``: those that share each step; None: this process is alone."""
        self._drawn_on = setting.device
        plan = plan_of(case, setting)
        compute = choose_compute(plan.operation.device, plan.identity.precision)
        matmul = pick_matmul(plan.identity.precision, capability_of(compute.device)).kind
        self.card: CardPlan | None = None
        """How the run fits the memory that is free; None on a CPU."""
        if setting.device.type == "cpu":
            transformer = random_model(
                HiDreamImageTransformer2DModel,
                setting.transformer,
                drawn_on=setting.device,
                device=setting.device,
                dtype=compute.weights,
                gain=setting.weight_gain,
            )
            done = None
        else:
            self.card, transformer = _planned(case, setting, plan, matmul)
            done = ("drawn in the form in which it is multiplied",)
        start_s = time.perf_counter()
        self.network = prepare(
            transformer, plan, compute, matmul=matmul, preparation=done, card=self.card
        )
        fill_adapter(self.network.trained, drawn_on=setting.device)
        self._backend = (
            SingleProcess(self.network, plan)
            if ranks is None
            else DataParallel(self.network, plan, ranks)
        )
        self._launching = Launching(self._backend, LEARNING_RATE)
        self.prepared_s = time.perf_counter() - start_s

    def step(self, batch: Batch) -> None:
        """As ``Subject.step``."""
        self._launching.step(batch)

    def wait(self) -> None:
        """As ``Subject.wait``."""
        self._launching.wait()

    def held(self) -> Iterator[torch.Tensor]:
        """Weights, adapter and buffers."""
        yield from self.network.transformer.parameters()
        yield from self.network.transformer.buffers()
        yield from self.network.trained.values()

    @torch.no_grad()
    def velocity(self, batch: Batch) -> torch.Tensor:
        """The velocity from data to noise, [B, C, H, W]."""
        timesteps_B = 1000 * batch.sigmas_B
        return self.network.velocity(batch.noisy_BCHW, timesteps_B, batch.text).velocity_BCHW

    def gradient(self, batch: Batch) -> Gradient:
        """As ``Subject.gradient``."""
        trained = self.network.trained
        fill_adapter(trained, drawn_on=self._drawn_on)
        self._backend.free_memory()
        with self._backend.with_means():
            loss = self._backend.losses(batch).mean()
            return Gradient.of(loss, trained)


def _planned(
    case: Case, setting: Setting, plan: Plan, matmul: MatmulKind
) -> tuple[CardPlan, HiDreamImageTransformer2DModel]:
    """How a run fits the free memory of the card, and its base, as a run loads it.

    With checkpointing and the whole card, every block is recomputed, as a peer's is, although there
    is memory for more. Raises OutOfMemoryError where it does not fit.
    """
    width_px, height_px = case.size_px
    run = CardRun.of(
        plan,
        setting.transformer,
        matmul=matmul,
        image_px=width_px * height_px,
        free_bytes=torch.cuda.mem_get_info(setting.device)[0],
        picks_fp8=picks_fp8(capability_of(setting.device)),
    )
    if case.checkpointing and case.card_gib is None:
        card = run.needs.planned(run.needs.recomputable)
    else:
        card = require_fit(run)
    base = random_base(
        setting.transformer,
        device=setting.device,
        dtype=setting.dtype,
        matmul=matmul,
        on_host=host_linears(run.model, card),
        gain=setting.weight_gain,
    )
    return card, base
