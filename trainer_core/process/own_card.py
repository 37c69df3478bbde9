"""Which GPU of a machine a rank uses. Imports no torch."""

from collections.abc import MutableMapping
from typing import Final

from trainer_core.config.plan import Plan

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def see_own_card(plan: Plan, env: MutableMapping[str, str]) -> None:
    """Show CUDA the one GPU of this rank alone, where several ranks train an adapter.

    The GPU is the one with the rank's number on this machine, among those that ``env`` shows. A
    rank without one sees none. CUDA reads the variable when it is first used. DeepSpeed picks the
    GPU itself, and needs to see all of them.
    """
    if plan.identity.adapter is None or int(env.get("WORLD_SIZE", "1")) == 1:
        return
    number = int(env["LOCAL_RANK"])
    shown = env.get(_VISIBLE)
    if shown is None:
        env[_VISIBLE] = str(number)
        return
    cards = [each.strip() for each in shown.split(",") if each.strip()]
    env[_VISIBLE] = cards[number] if number < len(cards) else ""
