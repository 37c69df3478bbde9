"""Which of a tenant's secrets a publication to the Hub uses, and which one a relay of metrics."""

from collections.abc import Sequence
from typing import Final

from services.domain.errors import Problem

_NEEDED: Final = (
    "Publishing to the Hub needs a token of your own. Store one: PUT /v1/secrets/<name> with the "
    "kind hub, or `reverie secrets set NAME --kind hub`."
)

NOT_RELAYED: Final = (
    "wandb: this run's metrics are not relayed to Weights & Biases, because you have "
    "stored no API key of it. Store one before you submit: PUT /v1/secrets/<name> with the kind "
    "wandb, or `reverie secrets set NAME --kind wandb`."
)


def choose_hub_secret(
    known: Sequence[str],
    named: str | None,
    *,
    is_single_tenant: bool,
    named_at: str,
    publishes_at: str,
) -> str | Problem | None:
    """The name of the secret, or what is wrong; None: the service's own token publishes.

    Args:
        known: names of the tenant's secrets of the kind ``hub``.
        named: the one that the request names; without it the tenant's only one is used.
        is_single_tenant: the service's own token may be used where the tenant has none.
        named_at: JSON Pointer to the place of ``named``.
        publishes_at: and to what asks for the Hub.
    """
    chosen = _choose("hub", known, named, named_at)
    if chosen is not None or is_single_tenant:
        return chosen
    return Problem(pointer=publishes_at, code="refused", message=_NEEDED)


def choose_wandb_secret(
    known: Sequence[str], named: str | None, *, is_wanted: bool, named_at: str
) -> str | Problem | None:
    """The name of the secret that relays a run's metrics, or what is wrong; None: there is none.

    Args:
        known: names of the tenant's secrets of the kind ``wandb``.
        named: the one that the request names; without it the tenant's only one is used.
        is_wanted: whether ``report_to`` names wandb. A named secret relays without it, too.
        named_at: JSON Pointer to the place of ``named``.
    """
    if named is None and not is_wanted:
        return None
    return _choose("wandb", known, named, named_at)


def _choose(
    kind: str, known: Sequence[str], named: str | None, named_at: str
) -> str | Problem | None:
    if named is not None:
        if named in known:
            return named
        message = f"You have no secret {named} of the kind {kind}."
        return Problem(pointer=named_at, code="not_found", message=message)
    if len(known) > 1:
        message = f"You have several secrets of the kind {kind}, so name one: {', '.join(known)}."
        return Problem(pointer=named_at, code="missing", message=message)
    return known[0] if known else None
