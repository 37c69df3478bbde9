"""Which fault happens when: a function of the seed."""

import random
from dataclasses import dataclass

KINDS = (
    "freeze_trainer",
    "kill_trainer",
    "kill_training",
    "stop_trainer",
    "stop_all_trainers",
    "pause_run",
    "kill_dispatcher",
    "kill_api",
    "kill_builder",
    "kill_results",
    "redis_flush",
    "redis_restart_empty",
    "ring_again",
    "postgres_crash",
    "postgres_reset",
    "postgres_slow",
    "postgres_drop_reply",
    "redis_reset",
    "redis_slow",
    "redis_drop_reply",
    "s3_503",
    "s3_slow",
    "s3_reset",
    "s3_half_body",
    "s3_drop_reply",
    "kill_box",
    "https_slow",
    "https_reset",
    "https_half_body",
    "https_drop_reply",
    "https_repeat",
    "https_repeat_late",
    "disk_full",
    "clock_step",
)
_FIRST_S = 1.0
_GAP_S = 2.4
"""Mean time between two faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    at_s: float
    """After the start of the faults."""
    kind: str
    duration_s: float
    """How long it lasts, where it is not over at once."""
    choice: float
    """From 0 to 1: which of the processes that it may meet."""


def make_schedule(seed: int, seconds: float) -> list[Fault]:
    """Faults of every kind in random order, again and again, until the time is over."""
    draw = random.Random(seed)
    faults: list[Fault] = []
    deck: list[str] = []
    at_s = _FIRST_S
    while at_s < seconds:
        if not deck:
            deck = draw.sample(KINDS, len(KINDS))
        faults.append(
            Fault(
                at_s=round(at_s, 1),
                kind=deck.pop(),
                duration_s=round(draw.uniform(1.0, 4.0), 1),
                choice=draw.random(),
            )
        )
        at_s += draw.uniform(0.2, 2 * _GAP_S - 0.2)
    return faults
