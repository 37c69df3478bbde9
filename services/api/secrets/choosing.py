"""Which of a tenant's secrets a publication to the Hub uses."""

from collections.abc import Sequence
from typing import Final

from services.domain.errors import Problem

_NEEDED: Final = (
    "Publishing to the Hub needs a token of your own. Store one: PUT /v1/secrets/<name> with the "
    "kind hub, or `reverie secrets set NAME --kind hub`."
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
    if named is not None:
        if named in known:
            return named
        message = f"You have no secret {named} of the kind hub."
        return Problem(pointer=named_at, code="not_found", message=message)
    if len(known) == 1:
        return known[0]
    if known:
        message = f"You have several secrets of the kind hub, so name one: {', '.join(known)}."
        return Problem(pointer=named_at, code="missing", message=message)
    if is_single_tenant:
        return None
    return Problem(pointer=publishes_at, code="refused", message=_NEEDED)
