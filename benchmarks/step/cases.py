"""What is measured: a table of cases, and their selection by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Final, Literal

Adapter = Literal["attention", "feed-forward", "lora"]
"""LoKr on attention, LoKr on attention and on every feed-forward, or LoRA on attention."""
PeerName = Literal["simpletuner", "diffusers"]
Precision = Literal["8bit", "int8", "bf16"]
"""How the frozen base is held: 8 bits (int8-quanto for a peer), 8 bits whose products are in int8
(ours only), or bf16."""

BOTH: Final[tuple[PeerName, ...]] = ("simpletuner", "diffusers")


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: a training step of one setting."""

    name: str
    size_px: tuple[int, int]
    """Width and height of the image."""
    precision: Precision
    checkpointing: bool = False
    """Gradient checkpointing of whole blocks."""
    batch: int = 1
    adapter: Adapter = "attention"
    peers: tuple[PeerName, ...] = ()
    """Peers that are timed; empty: only ours is."""
    card_gib: float | None = None
    """Another process holds the rest of the card; None: the whole card is free."""

    @property
    def res(self) -> str:
        return "{}x{}".format(*self.size_px)


_ST: Final[tuple[PeerName, ...]] = ("simpletuner",)

_1024: Final = (1024, 1024)
_512: Final = (512, 512)
_768: Final = (768, 512)

CASES: Final[tuple[Case, ...]] = (
    Case("1024-8bit-18gib", _1024, "8bit", checkpointing=True, card_gib=18, peers=_ST),
    Case("1024-8bit-24gib", _1024, "8bit", checkpointing=True, card_gib=24, peers=_ST),
    Case("1024-8bit", _1024, "8bit", peers=_ST),
    Case("1024-bf16-ckpt", _1024, "bf16", checkpointing=True, peers=BOTH),
    Case("1024-bf16", _1024, "bf16", peers=BOTH),
    Case("512-8bit-ckpt", _512, "8bit", checkpointing=True, peers=_ST),
    Case("512-8bit", _512, "8bit", peers=_ST),
    Case("512-bf16-ckpt", _512, "bf16", checkpointing=True, peers=BOTH),
    Case("512-bf16", _512, "bf16", peers=BOTH),
    Case("768x512-bf16-ckpt", _768, "bf16", checkpointing=True, peers=BOTH),
    Case("768x512-bf16", _768, "bf16", peers=BOTH),
    Case("alone-1536x1024-8bit-ckpt", (1536, 1024), "8bit", checkpointing=True),
    Case("alone-batch4-8bit-ckpt", _1024, "8bit", checkpointing=True, batch=4),
    Case("alone-ff-8bit-ckpt", _1024, "8bit", checkpointing=True, adapter="feed-forward"),
    Case("alone-lora16-8bit-ckpt", _1024, "8bit", checkpointing=True, adapter="lora"),
    Case("alone-int8", _1024, "int8"),
    Case("alone-512-int8", _512, "int8"),
)


def select(patterns: str, cases: Sequence[Case] = CASES) -> list[Case]:
    """The cases whose names match one of the patterns, in the table's order.

    ``patterns``: separated by commas, as in ``fnmatch``. Raises ValueError where one matches none.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatch(case.name, pattern) for case in cases):
            raise ValueError(f"no case is named {pattern}: {', '.join(c.name for c in cases)}")
    return [case for case in cases if any(fnmatch(case.name, pattern) for pattern in wanted)]
