"""What a run recomputes, streams and offloads so that its steps fit a CUDA card. No torch.

None of it changes a result. In this order, each only where the one before is not enough:

1. Everything is on the card, 8-bit weights also transposed, and nothing is recomputed.
2. Weights are transposed at each use.
3. Modulation and caption projections (the conditioning) are held by the host and streamed: 3 of
   17 billion weights, used once a step.
4. Blocks are recomputed, as few as needed: each costs another forward of it.
5. Recomputed blocks are held by the host and copied when they are used, as few as needed.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from trainer_core.config.plan import Plan
from trainer_core.memory.fused_activations import BlockBytes, block_bytes, outside_bytes
from trainer_core.memory.fused_model import FusedModel, tokens_of
from trainer_core.memory.fused_weights import (
    FusedWeights,
    block_weights_of,
    streamed_linears,
)
from trainer_core.memory.peak import PeakEstimate, activations_at_peak


@dataclass(frozen=True, kw_only=True, slots=True)
class CardPlan:
    """What of a run leaves the card, and what is computed twice.

    Blocks are counted from 0, double-stream blocks first.
    """

    recomputed: frozenset[int]
    """Blocks that are computed again in the backward pass."""
    keeps_transposed: bool
    """Whether the card holds the blocks' 8-bit weights also transposed."""
    streams_conditioning: bool
    """Whether modulation and caption projections are held by the host, and copied before use."""
    offloaded: frozenset[int]
    """Blocks whose weights are held by the host; all of them are recomputed."""
    estimate: PeakEstimate
    peak_bytes: int
    """Estimate of the reserved memory, for the largest bucket."""
    host_bytes: int
    """Pinned memory of the host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardNeeds:
    """The bytes of a run on a card, before anything is chosen."""

    blocks: tuple[BlockBytes, ...]
    outside: int
    weights: FusedWeights
    adapter: int
    recomputable: frozenset[int]
    """The blocks that the plan lets be recomputed, and that free memory."""

    @property
    def can_stream(self) -> bool:
        """Whether streaming the conditioning frees memory."""
        return self.weights.conditioning > self.weights.staged

    def planned(
        self,
        recomputed: Iterable[int] = (),
        offloaded: Iterable[int] = (),
        *,
        streams: bool = False,
        keeps_transposed: bool = False,
    ) -> CardPlan:
        """The peak with these choices."""
        again, away = frozenset(recomputed), frozenset(offloaded)
        weights = self.weights.on_card(streamed=streams, offloaded=away)
        if keeps_transposed:
            weights += self.weights.transposed
        estimate = PeakEstimate(
            held=weights + self.adapter,
            activations=activations_at_peak(
                self.blocks, again, self.outside, keeps_transposed=keeps_transposed
            ),
        )
        host = sum(self.weights.blocks[number] for number in away)
        return CardPlan(
            recomputed=again,
            keeps_transposed=keeps_transposed,
            streams_conditioning=streams,
            offloaded=away,
            estimate=estimate,
            peak_bytes=estimate.reserved_bytes,
            host_bytes=host + (self.weights.conditioning if streams else 0),
        )


def card_needs(
    plan: Plan,
    model: FusedModel,
    weights: FusedWeights,
    *,
    image_px: int,
) -> CardNeeds:
    """What a run needs.

    Args:
        plan: its batch size is read, and what it lets be recomputed.
        model: of the plan.
        weights: of the model.
        image_px: area in pixels of an image of the largest bucket.
    """
    tokens = tokens_of(plan, image_px)
    return CardNeeds(
        blocks=tuple(block_bytes(model, number, tokens) for number in range(model.blocks)),
        outside=outside_bytes(model, tokens),
        weights=weights,
        adapter=model.adapter_bytes,
        recomputable=_recomputable(plan, model.blocks),
    )


def plan_card(needs: CardNeeds, free_bytes: int) -> CardPlan | None:
    """The choices that cost least time; None where nothing makes the run fit.

    Args:
        needs: of the run.
        free_bytes: what the run may reserve on the card, its weights included.
    """
    for planned in _without_recomputing(needs):
        if fits(planned, free_bytes):
            return planned
    order = _by_gain(needs)
    for offloaded in range(len(order) + 1):
        away = _spread(offloaded, needs.recomputable)
        if not fits(needs.planned(order, away, streams=needs.can_stream), free_bytes):
            continue
        for count in range(len(order) + 1):
            again = [*away, *order[:count]]
            planned = needs.planned(again, away, streams=needs.can_stream)
            if fits(planned, free_bytes):
                return planned
    return None


def _without_recomputing(needs: CardNeeds) -> Iterator[CardPlan]:
    """Those first that are faster."""
    if needs.weights.transposed:
        yield needs.planned(keeps_transposed=True)
    yield needs.planned()
    if needs.can_stream:
        yield needs.planned(streams=True)


def smallest_plan(needs: CardNeeds) -> CardPlan:
    """Everything that saves memory."""
    every = needs.recomputable
    return needs.planned(every, every, streams=needs.can_stream)


def host_linears(model: FusedModel, planned: CardPlan) -> frozenset[str]:
    """Paths of the linears whose weights are held by the host."""
    streamed = streamed_linears(model) if planned.streams_conditioning else ()
    return frozenset(chain(streamed, *offloaded_linears(model, planned).values()))


def offloaded_linears(model: FusedModel, planned: CardPlan) -> dict[int, list[str]]:
    """Number of an offloaded block → paths of its linears of attention and feed-forward."""
    found: dict[int, list[str]] = {number: [] for number in planned.offloaded}
    for path in model.linears:
        number = block_weights_of(model, path)
        if number in found:
            found[number].append(path)
    return found


def described(planned: CardPlan, blocks: int) -> str:
    """The plan of a run with so many blocks, in one line for its log."""
    done = [f"recomputes {len(planned.recomputed)} of {blocks} blocks"]
    if planned.keeps_transposed:
        done.append("holds 8-bit weights also transposed")
    if planned.streams_conditioning:
        done.append("streams modulation and caption projections from the host")
    if planned.offloaded:
        done.append(f"holds {len(planned.offloaded)} blocks on the host")
    return ", ".join([*done, f"estimated peak {planned.peak_bytes / 2**30:.1f} GiB"])


def fits(planned: CardPlan, free_bytes: int) -> bool:
    return planned.peak_bytes <= free_bytes


def _recomputable(plan: Plan, blocks: int) -> frozenset[int]:
    """Every n-th block, where the plan allows it at all, but for the last one.

    The last block's gradient is computed first, when all blocks are kept: recomputing it frees
    nothing.
    """
    if not plan.operation.gradient_checkpointing:
        return frozenset()
    return frozenset(range(0, blocks - 1, plan.operation.gradient_checkpointing_interval))


def _by_gain(needs: CardNeeds) -> list[int]:
    """The recomputable blocks, those first that free most for the work of computing them again."""

    def gain(number: int) -> float:
        block = needs.blocks[number]
        return (block.kept - block.input) / block.recompute_flops if block.kept else 0.0

    return sorted(needs.recomputable, key=lambda number: (-gain(number), number))


def _spread(count: int, blocks: Collection[int]) -> list[int]:
    """``count`` of the blocks, evenly spread: copies hide behind the blocks between."""
    in_order, total = sorted(blocks), len(blocks)
    return [in_order[(2 * position + 1) * total // (2 * count)] for position in range(count)]
