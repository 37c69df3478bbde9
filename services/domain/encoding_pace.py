"""How long the missing cache of a run takes to encode. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.domain.estimates import P90, Spread

_LEAST_DEVIATION: Final = 0.1
_SIGMA_PER_DEVIATION: Final = 1.25
"""Of a normal distribution: its standard deviation by its mean distance from the mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingPace:
    """Measured on shards of one kind; a unit is a million pixels, or a caption."""

    num_shards: int
    ln_unit_s: float
    deviation: float


def encoding_s(
    units: Mapping[str, float], paces: Mapping[str, EncodingPace], *, builders: int
) -> Spread | None:
    """Seconds until all is encoded by so many builders; None where that cannot be told.

    Args:
        units: kind of shard → units that are missing.
        paces: kind of shard → what was measured.
        builders: that work now.
    """
    missing = {kind: each for kind, each in units.items() if each > 0}
    if not missing:
        return Spread(p50=0.0, p90=0.0)
    if not builders or not missing.keys() <= paces.keys():
        return None
    p50 = p90 = 0.0
    for kind, each in missing.items():
        pace = paces[kind]
        unit_s = math.exp(pace.ln_unit_s)
        sigma = _SIGMA_PER_DEVIATION * max(_LEAST_DEVIATION, pace.deviation)
        p50 += each * unit_s / builders
        p90 += each * unit_s * math.exp(P90 * sigma) / builders
    return Spread(p50=p50, p90=p90)
