"""Which GPU of a machine a rank uses. Imports no torch."""

from collections.abc import MutableMapping
from typing import Final

from trainer_core.config.plan import Operation
from trainer_core.errors import GpuMissingError
from trainer_core.process.rank_count import shown_gpus, visible_gpus

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_LOCAL_RANK: Final = "LOCAL_RANK"


def see_own_card(operation: Operation, env: MutableMapping[str, str]) -> None:
    """Show CUDA the one GPU of this rank alone, where a machine has several ranks.

    The GPU is the one with the rank's number on this machine, among those that ``env`` shows; all
    threads of the process then use it. CUDA reads the variable when it is first used. DeepSpeed
    takes ``LOCAL_RANK`` for the number of the GPU among those that are shown, so it becomes 0.

    Raises GpuMissingError where there are fewer GPUs than ranks.
    """
    if operation.device == "cpu" or int(env.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return
    number, cards = int(env[_LOCAL_RANK]), shown_gpus(env)
    if cards is None:
        cards = [str(card) for card in range(visible_gpus(env))]
    if not cards:  # on a CPU, or where device files do not tell
        return
    if number >= len(cards):
        raise GpuMissingError(
            f"{env['LOCAL_WORLD_SIZE']} ranks were started on a machine, and it shows them "
            f"{len(cards)} GPUs: start one rank for each GPU"
        )
    env[_VISIBLE] = cards[number]
    env[_LOCAL_RANK] = "0"
