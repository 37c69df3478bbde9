"""What is measured: a table of cases, and their selection by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Final, Literal

Adapter = Literal["attention", "feed-forward", "lora"]
"""LoKr on attention, LoKr on attention and on every feed-forward, or LoRA on attention."""
PeerName = Literal["simpletuner", "diffusers"]
Precision = Literal["8bit", "bf16"]
"""How the frozen base is held: 8 bits (int8-quanto for a peer) or bf16."""

BOTH: Final[tuple[PeerName, ...]] = ("simpletuner", "diffusers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the table: a training step of one setting."""

    name: str
    width_px: int
    height_px: int
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
        return f"{self.width_px}x{self.height_px}"


_SQUARE: Final = {"width_px": 1024, "height_px": 1024}
_SMALL: Final = {"width_px": 512, "height_px": 512}
_WIDE: Final = {"width_px": 768, "height_px": 512}

CASES: Final[tuple[Case, ...]] = (
    Case(
        name="1024-8bit-ckpt",
        precision="8bit",
        checkpointing=True,
        peers=("simpletuner",),
        **_SQUARE,
    ),
    Case(name="1024-8bit", precision="8bit", peers=("simpletuner",), **_SQUARE),
    Case(
        name="1024-8bit-24gib",
        precision="8bit",
        checkpointing=True,
        card_gib=24,
        peers=("simpletuner",),
        **_SQUARE,
    ),
    Case(name="1024-bf16-ckpt", precision="bf16", checkpointing=True, peers=BOTH, **_SQUARE),
    Case(name="1024-bf16", precision="bf16", peers=BOTH, **_SQUARE),
    Case(
        name="512-8bit-ckpt",
        precision="8bit",
        checkpointing=True,
        peers=("simpletuner",),
        **_SMALL,
    ),
    Case(name="512-8bit", precision="8bit", peers=("simpletuner",), **_SMALL),
    Case(name="512-bf16-ckpt", precision="bf16", checkpointing=True, peers=BOTH, **_SMALL),
    Case(name="512-bf16", precision="bf16", peers=BOTH, **_SMALL),
    Case(name="768x512-bf16-ckpt", precision="bf16", checkpointing=True, peers=BOTH, **_WIDE),
    Case(name="768x512-bf16", precision="bf16", peers=BOTH, **_WIDE),
    Case(
        name="alone-1536x1024-8bit-ckpt",
        precision="8bit",
        checkpointing=True,
        width_px=1536,
        height_px=1024,
    ),
    Case(name="alone-batch4-8bit-ckpt", precision="8bit", checkpointing=True, batch=4, **_SQUARE),
    Case(
        name="alone-feed-forward-8bit-ckpt",
        precision="8bit",
        checkpointing=True,
        adapter="feed-forward",
        **_SQUARE,
    ),
    Case(
        name="alone-lora16-8bit-ckpt",
        precision="8bit",
        checkpointing=True,
        adapter="lora",
        **_SQUARE,
    ),
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
