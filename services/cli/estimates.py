"""Estimates of runs, in words."""

from typing import TYPE_CHECKING, Final

from trainer_core.in_words import duration

if TYPE_CHECKING:
    from services.client.shapes import Basis, Estimate

_LIKENESS: Final = {
    "same": "{} runs like it",
    "scaled": "{} runs of the same settings, scaled",
    "other_settings": "{} runs of other settings, scaled",
}


def in_words(estimate: "Estimate | None") -> str | None:
    """``2 h 5 min, at most 2 h 40 min in 9 of 10 cases, 7.40 USD; by 12 runs like it``."""
    if estimate is None:
        return None
    seconds, cost = estimate["seconds"], estimate["cost_micros"]
    shown = f"{duration(seconds['p50'])}, in 9 of 10 cases at most {duration(seconds['p90'])}"
    if cost is not None:
        shown += f", {cost['p50'] / 1e6:.2f} {estimate['currency']}"
    return f"{shown}; by {_basis(estimate['basis'])}"


def _basis(basis: "Basis") -> str:
    parts = []
    if basis["likeness"] is not None:
        parts.append(_LIKENESS[basis["likeness"]].format(basis["num_attempts"]))
    if basis["own_steps"]:
        parts.append(f"{basis['own_steps']} steps of its own")
    return " and ".join(parts)
