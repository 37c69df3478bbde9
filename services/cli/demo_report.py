"""The numbers in the demo's last line of output, from the run's events and files."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.client.run_output_shapes import Event
from trainer_core.data.shard_files import read_places


@dataclass(frozen=True, kw_only=True, slots=True)
class LossDrop:
    """The fixed validation loss before and after, over the same 64 samples.

    A sample is an image, its noise and its sigma.
    """

    before: float
    after: float
    drop_pct: float
    drop_sigma: float
    """Mean of the paired differences over its standard error."""


def loss_drop(before: Sequence[float], after: Sequence[float]) -> LossDrop:
    """Compare two evaluations sample by sample; raises ValueError where their counts differ."""
    differences = [b - a for b, a in zip(before, after, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    first = statistics.fmean(before)
    return LossDrop(
        before=first,
        after=statistics.fmean(after),
        drop_pct=100 * mean / first,
        drop_sigma=mean / error if error > 0 else 0.0,
    )


def fixed_losses(events: Sequence[Event]) -> tuple[list[float], list[float]]:
    """The samples' losses in the first and the last fixed validation loss of a run's events.

    Raises ValueError where there are not two.
    """
    found = [e for e in events if e.type == "eval" and e.data.get("name") == "probe"]
    if len(found) < 2:
        raise ValueError(f"the run reported {len(found)} fixed validation losses; two are needed")
    return list(found[0].data["losses"]), list(found[-1].data["losses"])


def cached_entries(objects: Path, tensor: str) -> int:
    """How many entries with this tensor the cache of a folder store holds.

    Pictures have ``mean``, captions and prompts ``pooled``.
    """
    shards = map(read_places, objects.glob("tenants/*/cache/*/*.safetensors"))
    return sum(
        tensor in (each.name for each in place.tensors)
        for shard in shards
        for place in shard.values()
    )


def newest_checkpoint(objects: Path, run_id: str) -> Path:
    """The folder of the last committed checkpoint: the highest step that has a manifest.

    Raises FileNotFoundError where there is none.
    """
    pattern = f"tenants/*/runs/{run_id}/attempts/*/checkpoints/*/manifest.json"
    found = sorted(objects.glob(pattern), key=lambda file: file.parent.name)
    if not found:
        raise FileNotFoundError(f"no checkpoint of {run_id} under {objects}")
    return found[-1].parent
