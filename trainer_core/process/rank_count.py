"""How many processes train a plan on a machine. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trainer_core.config.plan import Identity
from trainer_core.errors import DeviceError

_DEVICES: Final = Path("/dev")
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def visible_gpus(env: Mapping[str, str], devices: Path = _DEVICES) -> int:
    """GPUs that CUDA shows, by their device files; 0 where these are elsewhere.

    Args:
        env: says which of them CUDA shows (``CUDA_VISIBLE_DEVICES``).
        devices: the folder of device files. ``nvidia0`` is that of a GPU, ``nvidiactl`` is not.
    """
    found = len([path for path in devices.glob("nvidia*") if path.name[6:].isdecimal()])
    shown = shown_gpus(env)
    return found if shown is None else min(found, len(shown))


def shown_gpus(env: Mapping[str, str]) -> list[str] | None:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names; None where it is not set."""
    names = env.get(_VISIBLE)
    if names is None:
        return None
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def most_ranks(identity: Identity, places: int) -> int:
    """The most ranks that share a step evenly, as many as planned and one a place at most."""
    per_step, most = identity.micro_batches_per_step, min(identity.world_size, places)
    return max(ranks for ranks in range(1, most + 1) if per_step % ranks == 0)


def require_even(identity: Identity, ranks: int) -> None:
    """Raises DeviceError where so many ranks cannot share a step evenly."""
    per_step = identity.micro_batches_per_step
    if per_step % ranks:
        raise DeviceError(
            f"a step takes {per_step} micro-batches, which {ranks} ranks cannot share evenly: "
            f"start a number of ranks that divides {per_step}"
        )
