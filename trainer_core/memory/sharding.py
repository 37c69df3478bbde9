"""How a full-rank run would be sharded over cards of common sizes. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer_core.config.plan import Plan
from trainer_core.memory.cards import SIZES_GIB, usable_bytes
from trainer_core.memory.zero_choice import ZeroChoice, choose_zero, is_open


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingRow:
    """How a full-rank run is sharded over cards of one size."""

    card_gib: int
    choice: ZeroChoice


def sharding_rows(
    plan: Plan, transformer: Mapping[str, Any], *, image_px: int
) -> tuple[ShardingRow, ...]:
    """A row for each of ``SIZES_GIB``; none where the plan does not leave the ZeRO stage open.

    ``transformer`` and ``image_px``: as for ``card_rows``.
    """
    if not is_open(plan):
        return ()
    return tuple(
        ShardingRow(
            card_gib=size_gib,
            choice=choose_zero(
                plan,
                transformer,
                card_bytes=usable_bytes(size_gib),
                host_bytes=None,
                image_px=image_px,
            ),
        )
        for size_gib in SIZES_GIB
    )
