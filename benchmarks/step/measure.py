"""Times steps, and takes a card that is out of memory for a result."""

import gc
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import torch

from trainer_core.engine.batch import Batch

GIB: Final = 2**30


class Steps(Protocol):
    """Takes steps that can be timed."""

    prepared_s: float
    """Seconds from random weights to being ready for a step."""

    def step(self, batch: Batch) -> None:
        """Take one optimizer step. The device may still be at work when it returns."""

    def wait(self) -> None:
        """Return when every step is done, also on the device."""


class Subject(Steps, Protocol):
    """A model with an adapter and an optimizer: ours or a peer's."""

    def gradient(self, batch: Batch) -> "Gradient":
        """Loss and gradient at the first adapter values, which are set again."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a forward and backward pass gave."""

    loss: float
    tensors: Mapping[str, torch.Tensor]
    """Logical name → gradient, fp32 on the CPU."""

    @classmethod
    def of(cls, loss: torch.Tensor, trained: Mapping[str, torch.Tensor]) -> "Gradient":
        """Of a loss with its graph. Each ``grad`` is used, and is 0 afterwards.

        They are zeroed in place, because they may be views of one flat gradient. The gradient of an
        expert that got no token is 0.
        """
        _zero_gradients(trained)
        torch.autograd.backward(loss)
        tensors = {
            name: (torch.zeros_like(each) if each.grad is None else each.grad)
            .detach()
            .to("cpu", torch.float32, copy=True)
            for name, each in trained.items()
        }
        _zero_gradients(trained)
        return cls(loss.item(), tensors)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The steps of one subject in one case."""

    step_s: float
    """Median."""
    min_s: float
    max_s: float
    steps: int
    first_step_s: float
    """From random weights to the end of the first step: 8-bit form, adapter, compilation."""
    peak_gib: float | None
    """Largest allocation of torch while steps ran; None on a CPU."""
    peak_reserved_gib: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result."""

    reason: str
    out_of_memory: bool = False


def _zero_gradients(trained: Mapping[str, torch.Tensor]) -> None:
    for each in trained.values():
        if each.grad is not None:
            each.grad.zero_()


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def attempt(
    work: Callable[_Arguments, _Result], *args: _Arguments.args, **named: _Arguments.kwargs
) -> _Result | Failure:
    """What ``work`` returns, or why it failed. The card's memory is free again afterwards."""
    try:
        return work(*args, **named)
    except Exception as error:  # noqa: BLE001 - one case that fails must not lose the others
        text = f"{type(error).__name__}: {error}".replace("\n", " ")
        failure = Failure(text[:300], out_of_memory=_is_out_of_memory(error))
        if not failure.out_of_memory:
            traceback.print_exc()
    # Only here are the frames gone that hold the tensors of the failed work.
    free_memory()
    return failure


def free_memory() -> None:
    """Return to the card what nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # Libraries that allocate by themselves.
    return "out of memory" in str(error) or "ALLOC_FAILED" in str(error)


def time_steps(
    subject: Steps,
    batch: Batch,
    *,
    warm_up: int,
    least: int,
    most: int,
    budget_s: float,
) -> Timing:
    """Time between the ends of consecutive steps, so work of the host between them counts.

    Args:
        subject: ready for its first step.
        batch: of every step.
        warm_up: steps before those that count.
        least: steps that count, also where they take longer than the budget.
        most: steps that count at the most.
        budget_s: no step beyond ``least`` starts after so long.
    """
    on_card = batch.noisy_BCHW.is_cuda
    if on_card:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start_s = time.perf_counter()
    subject.step(batch)
    subject.wait()
    first_step_s = subject.prepared_s + time.perf_counter() - start_s
    for _ in range(warm_up - 1):
        subject.step(batch)
    subject.wait()
    start_s = time.perf_counter()
    marks = [_mark(on_card)]
    while len(marks) <= least or (len(marks) <= most and time.perf_counter() - start_s < budget_s):
        subject.step(batch)
        marks.append(_mark(on_card))
    subject.wait()
    seconds = [_between(*pair) for pair in itertools.pairwise(marks)]
    return Timing(
        step_s=statistics.median(seconds),
        min_s=min(seconds),
        max_s=max(seconds),
        steps=len(seconds),
        first_step_s=first_step_s,
        peak_gib=torch.cuda.max_memory_allocated() / GIB if on_card else None,
        peak_reserved_gib=torch.cuda.max_memory_reserved() / GIB if on_card else None,
    )


def _mark(on_card: bool) -> Any:
    """Now; on the card, when it has done everything launched so far."""
    if not on_card:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(earlier: Any, later: Any) -> float:
    """Seconds between two marks."""
    if isinstance(earlier, float):
        return float(later - earlier)
    return float(earlier.elapsed_time(later)) / 1000
