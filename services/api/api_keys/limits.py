"""What a key may give to a new one: never more than it has itself."""

from collections.abc import Sequence

from services.api.errors import ScopeMissingError
from services.domain.access import Actor, Scope
from services.domain.errors import InvalidRequestError, Problem


def check_member(actor: Actor, member_id: str | None) -> str | None:
    """For whom a new key acts; raises InvalidRequestError."""
    if member_id is None or member_id == actor.member_id:
        return actor.member_id
    if actor.keys_of is not None:
        message = "Only an owner of the tenant makes keys for other members."
        raise InvalidRequestError(
            [Problem(pointer="/member_id", code="not_allowed", message=message)]
        )
    return member_id


def check_scopes(actor: Actor, asked: Sequence[Scope] | None) -> list[str] | None:
    """The list of a new key; None: all that its member's role has. Raises InvalidRequestError."""
    if asked is None:
        return None if actor.listed is None else sorted(actor.listed)
    problems = [
        Problem(
            pointer=f"/scopes/{position}",
            code="not_allowed",
            message=f"The key of this request does not have {scope}, so it cannot give it.",
        )
        for position, scope in enumerate(asked)
        if scope not in actor.scopes
    ]
    if problems:
        raise InvalidRequestError(problems)
    return sorted(set(asked))


def check_rotation(actor: Actor, listed: Sequence[str] | None) -> None:
    """Raise ScopeMissingError where the key to be rotated has more than the key of the request.

    The new key's secret is in the answer, so it would be a way to more.
    """
    if actor.listed is None:
        return
    more = None if listed is None else sorted(set(listed) - actor.listed)
    if more is None or more:
        words = "all that its member may do" if more is None else ", ".join(more)
        raise ScopeMissingError(
            f"The key to be rotated may do more than the one that asks for it ({words}). Use a key "
            "that has these scopes, too."
        )
