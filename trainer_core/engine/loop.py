"""A run from its first step to its result."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from trainer_core.checkpoint.folders import keep_newest
from trainer_core.checkpoint.identity import checkpoint_identity
from trainer_core.checkpoint.read import read_checkpoint
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    TrainedTensors,
    WrittenFolder,
    write_checkpoint,
)
from trainer_core.data.sampler import Sampler
from trainer_core.engine.batch import Batch, Draw
from trainer_core.engine.result import SAMPLE_NAME, write_run_result
from trainer_core.engine.setup import Parts, load_parts, surroundings
from trainer_core.engine.step_metrics import StepMetrics
from trainer_core.engine.throughput import Throughput
from trainer_core.errors import DeviceError, NonFiniteLossError
from trainer_core.export.card import card_facts
from trainer_core.export.origin import Weights
from trainer_core.faultpoints import fault_point
from trainer_core.optim.schedule import learning_rate_at
from trainer_core.process.control import Control, StopRequestedError, Word
from trainer_core.process.events import EventName, EventWriter
from trainer_core.process.job import Job
from trainer_core.validation.fixed_loss import (
    EvaluationSample,
    FixedLoss,
    evaluation_samples,
    measure_fixed_loss,
)
from trainer_core.validation.sample import sample_for_result


def run_job(job: Job, events: EventWriter, control: Control) -> bool:
    """Train; True where the run finished, False where it stopped on request.

    The last event (``finished`` or ``stopped``) is written here; failures are raised.
    """
    events.emit("stage", 0, {"stage": "loading"})
    parts = load_parts(job, control)
    fault_point("train.loaded")
    return Run(job, parts, events, control).go()


class Run:
    """One attempt at a run. Its state is a step, and what the backend holds."""

    def __init__(self, job: Job, parts: Parts, events: EventWriter, control: Control) -> None:
        """Raises DeviceError where the ranks that are there cannot share a step evenly."""
        identity = job.plan.identity
        self._job = job
        self._plan = job.plan
        self._parts = parts
        self._backend = parts.backend
        self._events = events
        self._control = control
        self._sampler = Sampler(job.index, identity.seed, identity.micro_batch_size)
        self._micro_per_step = identity.accumulation_steps * identity.world_size
        if self._micro_per_step % self._backend.ranks:
            raise DeviceError(
                f"a step takes {self._micro_per_step} micro-batches, which {self._backend.ranks} "
                "ranks cannot share evenly"
            )
        self._triples = evaluation_samples(job.index, identity.seed)
        self._before: dict[str, JsonValue] | None = None
        self._step = 0
        self._saved_at = 0
        self._untold: StepMetrics | None = None
        """Of the current step, where no event has told it."""
        self._last_loss: float | None = None
        self._pace = Throughput(identity.max_train_steps)

    @property
    def _last_step(self) -> int:
        return self._plan.identity.max_train_steps

    def go(self) -> bool:
        """As ``run_job``."""
        self._announce()
        if self._job.resume_from is not None:
            self._resume()
        try:
            if self._step == 0:
                self._before = self._probe().as_json()
            self._stage("training")
            self._train()
            with self._backend.averaged():
                self._write_result(self._probe())
        except StopRequestedError:
            if self._step > self._saved_at:
                self._checkpoint()
            self._emit("stopped", {})
            return False
        return True

    def _train(self) -> None:
        self._pace.start(self._step)
        while self._step < self._last_step:
            self._heed()
            self._take_step(self._step + 1)
            if self._step % self._plan.operation.checkpoint_step_interval == 0:
                self._checkpoint()
                self._stage("training")
        if self._step > self._saved_at:
            self._checkpoint()

    def _heed(self) -> None:
        """Do as the supervisor says, all ranks alike: wait while paused, raise to stop."""
        word = self._agreed_word()
        if word is Word.PAUSE:
            self._tell_step()
            self._stage("paused")
            while word is Word.PAUSE:
                self._control.wait()
                word = self._agreed_word()
            self._pace.start(self._step)
            self._stage("training")
        if word is Word.STOP:
            raise StopRequestedError("a stop was asked for")

    def _agreed_word(self) -> Word:
        words = list(Word)  # in the order of urgency
        return words[self._backend.max_across_ranks(words.index(self._control.word()))]

    def _rate(self, step: int) -> float:
        identity = self._plan.identity
        peak = identity.optimizer.learning_rate
        return learning_rate_at(step, identity.schedule, peak, self._last_step)

    def _take_step(self, step: int) -> None:
        self._untold = self._backend.update(
            self._share(step),
            count=self._micro_per_step,
            step=step,
            learning_rate=self._rate(step),
        )
        self._last_loss = self._untold.loss
        self._step = step
        fault_point("train.after_step")
        if self._pace.is_due(step):
            self._tell_step()

    def _share(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of one step, made when they are asked for."""
        first = (step - 1) * self._micro_per_step
        for i in range(
            first + self._backend.rank, first + self._micro_per_step, self._backend.ranks
        ):
            yield self._parts.batches.training(self._sampler.micro_batch(i))

    def _tell_step(self) -> None:
        """The event of the current step, unless it has been told."""
        if self._untold is None:
            return
        figures, self._untold = self._untold, None
        speed = self._pace.steps_per_s(self._step)
        last_micro_batch = self._sampler.micro_batch(self._step * self._micro_per_step - 1)
        self._emit(
            "step",
            {
                "loss": figures.loss,
                "balance_loss": figures.balance_loss,
                "learning_rate": self._rate(self._step),
                "grad_max": figures.grad_max,
                "steps_per_s": speed,
                "eta_s": (self._last_step - self._step) / speed if speed else None,
                "epoch": last_micro_batch.epoch,
            },
        )

    def _probe(self) -> FixedLoss:
        def losses(triples: Sequence[EvaluationSample]) -> torch.Tensor:
            draws = [
                Draw(sample=t.sample, text=t.text, purpose="probe", i=t.i, slot=0) for t in triples
            ]
            return self._backend.losses(self._parts.batches.batch(draws))

        # Without dropout: the same question gets the same answer, whatever was asked before it.
        self._parts.transformer.eval()
        try:
            result = measure_fixed_loss(
                self._triples, self._job.index, losses, before_batch=self._heed_in_probe
            )
        finally:
            self._parts.transformer.train()
        self._emit("eval", {"name": "probe", **result.as_json()})
        if self._step > 0 and not math.isfinite(result.mean):
            raise NonFiniteLossError(f"the loss measured after step {self._step} is not a number")
        return result

    def _heed_in_probe(self) -> None:
        if self._agreed_word() is Word.STOP:
            raise StopRequestedError("a stop was asked for")

    def _checkpoint(self) -> None:
        """Write the state after the current step, whose event comes before it in any case."""
        self._tell_step()
        self._stage("checkpointing")
        trained = self._backend.tensors()
        _check_finite(trained, self._step)
        self._saved_at = self._step
        if self._backend.rank != 0:
            return
        belongs = checkpoint_identity(self._job)
        facts = CheckpointFacts(
            step=self._step,
            cursor=self._step * self._micro_per_step,
            identity_digest=belongs.identity_digest,
            identity=belongs.identity,
            data_digest=belongs.data_digest,
            base_digest=belongs.base_digest,
            scalars={"probe_before": self._before, "loss": self._last_loss, **surroundings()},
        )
        folder = self._job.checkpoints_dir
        written = write_checkpoint(folder, facts, trained)
        fault_point("checkpoint.after_rename")
        keep_newest(folder, self._job.keep_checkpoints)
        fault_point("checkpoint.before_event")
        self._emit("checkpoint", self._facts_of(written))

    def _resume(self) -> None:
        folder = Path(str(self._job.resume_from))
        checkpoint = read_checkpoint(
            folder, checkpoint_identity(self._job), last_step=self._last_step
        )
        manifest = checkpoint.manifest
        for name, value in surroundings().items():
            if manifest.scalars.get(name) != value:
                # Not refused: the run is as good, only not the same bit for bit.
                message = f"The run goes on with {name} {value}, not {manifest.scalars.get(name)}."
                self._emit("warning", {"code": "other_surroundings", "message": message})
        self._backend.load(checkpoint)
        self._step = self._saved_at = manifest.step
        before = manifest.scalars.get("probe_before")
        self._before = before if isinstance(before, dict) else None
        loss = manifest.scalars.get("loss")
        self._last_loss = loss if isinstance(loss, float) else None

    def _write_result(self, after: FixedLoss) -> None:
        self._stage("sampling")
        parts, operation = self._parts, self._plan.operation
        with self._backend.gathered():
            sample = sample_for_result(
                parts.transformer,
                parts.vae,
                Path(self._job.base_model_dir),
                operation=operation,
                index=self._job.index,
                read_text=parts.batches.text,
                compute=parts.compute,
            )
        self._stage("finalizing")
        trained = self._backend.tensors()
        if self._backend.rank != 0:
            return
        weights: Weights = "trained" if self._plan.identity.ema is None else "ema"
        facts = card_facts(
            self._plan,
            loss_before=self._before,
            loss_after=after.as_json(),
            trainable_parameters=parts.trainable_parameters,
            trainable_modules=parts.trainable_modules,
            weights=weights,
        )
        written = write_run_result(
            self._job.result_dir,
            plan=self._plan,
            parts=parts,
            parameters=trained.parameters,
            weights=weights,
            sample=sample,
            facts=facts,
        )
        fault_point("result.before_event")
        sample_facts = {"path": f"result/{SAMPLE_NAME}", "prompt": operation.sample_prompt}
        self._emit("sample", dict(sample_facts))
        fault_point("train.before_finished")
        self._emit("finished", self._facts_of(written))

    def _announce(self) -> None:
        self._emit(
            "plan",
            {
                "trainable_modules": self._parts.trainable_modules,
                "trainable_parameters": self._parts.trainable_parameters,
                "steps": self._last_step,
                "preparation": list(self._parts.preparation),
                "warnings": list(self._job.index.warnings),
            },
        )

    def _facts_of(self, written: WrittenFolder) -> dict[str, JsonValue]:
        return {
            "path": written.path.relative_to(self._job.output_dir).as_posix(),
            "manifest_sha256": written.manifest_sha256,
            "size_bytes": written.size_bytes,
        }

    def _stage(self, stage: str) -> None:
        self._emit("stage", {"stage": stage})

    def _emit(self, event: EventName, fields: dict[str, JsonValue]) -> None:
        self._events.emit(event, self._step, fields)


def _check_finite(trained: TrainedTensors, step: int) -> None:
    """An update may overflow where loss and gradient were numbers: no checkpoint may hold that."""
    for tensors in (trained.parameters, trained.optimizer_state, trained.ema):
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise NonFiniteLossError(
                    f"step {step}: its update left numbers in {name} that are not finite; the "
                    "checkpoint before it stands. Lower the learning rate, or clip gradients."
                )
