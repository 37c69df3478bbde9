"""Which precision, resolution and batch a card can train: the best of them that fits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from services.cli.connection import CommandError
from trainer_core.base_models.known import FLAVOURS, PUBLISHED
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.memory.class_fit import CUDA_BYTES, fit_on

Precision = Literal["bf16", "int8", "int8 products"]
"""How the base is held: in 16 bits, in 8 bits, or in 8 bits and multiplied so."""

EDGES_PX: Final = (1024, 768, 512)
_BATCHES: Final = (4, 2)
_PRECISIONS: Final[tuple[Precision, ...]] = ("bf16", "int8", "int8 products")
_BASE: Final = FLAVOURS["full"]
_USABLE: Final = 0.97
"""A card has up to 3 % less than its name says."""
_FILLED_BY_BATCHES: Final = 0.9
"""Activations are an estimate, so that a larger batch leaves a tenth free."""
_CAPABILITY: Final = (8, 9)
"""Runs are fitted to a card of this capability. Newer ones multiply more kinds of weights in fused
blocks, which need less memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What depends on the memory of the card."""

    precision: Precision
    edge_px: int
    """The resolution: edge of the square of a picture's area."""
    batch: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A draft as a plan, and the buckets that its pictures are in."""

    draft: Draft
    plan: Plan
    buckets: Mapping[tuple[int, int], int]
    """(width, height) in pixels → number of pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A draft that fits the card."""

    trial: Trial
    peak_gib: float
    refused: Mapping[Precision, float] = field(default_factory=dict)
    """Precisions that do not fit at this resolution → GiB that they need."""


def fit_to_card(
    card_gb: int, wanted_px: int, try_draft: Callable[[Draft], Trial], *, may_batch: bool
) -> Fitted:
    """The largest resolution that fits, in the best precision, with the largest batch.

    Args:
        card_gb: memory of the card, as its name says.
        wanted_px: the largest resolution to try.
        try_draft: makes the plan of a draft.
        may_batch: whether a batch may have more than one picture.

    Raises CommandError where nothing fits.
    """
    refused: dict[tuple[int, Precision], float] = {}
    for draft in _drafts(wanted_px):
        trial = try_draft(draft)
        peak_gib = _peak_gib(trial, card_gb)
        if peak_gib <= _usable_gib(card_gb):
            here = {each: gib for (edge, each), gib in refused.items() if edge == draft.edge_px}
            fitted = Fitted(trial=trial, peak_gib=peak_gib, refused=here)
            return _with_batch(fitted, card_gb, try_draft) if may_batch else fitted
        refused[draft.edge_px, draft.precision] = peak_gib
    raise CommandError(
        f"a card of {card_gb} GB is too small for these pictures, even in 8 bits at "
        f"{EDGES_PX[-1]} px: take a larger one"
    )


def plan_of(
    config: Mapping[str, Any],
    lycoris_config: Mapping[str, Any] | None,
    data_backends: Sequence[Any],
) -> Plan:
    """The plan of the files of a run with HiDream-I1."""
    return import_run(
        config=config,
        lycoris_config=lycoris_config,
        data_backends=data_backends,
        prompt_library=None,
        base_models={_BASE: PUBLISHED.as_base(_BASE)},
        source="local",
    ).plan


def _drafts(wanted_px: int) -> Iterator[Draft]:
    for edge_px in EDGES_PX:
        if edge_px <= wanted_px:
            for precision in _PRECISIONS:
                yield Draft(precision=precision, edge_px=edge_px)


def _with_batch(fitted: Fitted, card_gb: int, try_draft: Callable[[Draft], Trial]) -> Fitted:
    """The same with the largest batch that fits and that each bucket can fill."""
    draft = fitted.trial.draft
    for batch in _BATCHES:
        if batch > min(fitted.trial.buckets.values()) or draft.precision == "int8 products":
            continue
        trial = try_draft(replace(draft, batch=batch))
        peak_gib = _peak_gib(trial, card_gb)
        if peak_gib <= _FILLED_BY_BATCHES * _usable_gib(card_gb):
            return replace(fitted, trial=trial, peak_gib=peak_gib)
    return fitted


def _peak_gib(trial: Trial, card_gb: int) -> float:
    """GiB that a run needs; infinite where it leaves weights on the host and still does not fit."""
    fit = fit_on(
        trial.plan,
        PUBLISHED,
        memory_bytes=round(_USABLE * card_gb * 2**30),
        capability=_CAPABILITY,
        image_px=max(width * height for width, height in trial.buckets),
    )
    return float("inf") if fit.peak_estimate_bytes is None else fit.peak_estimate_bytes / 2**30


def _usable_gib(card_gb: int) -> float:
    return _USABLE * card_gb - CUDA_BYTES / 2**30
