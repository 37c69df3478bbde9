"""Who sends a request, as the audit log names it."""

from typing import Annotated

from fastapi import Depends, Request

from services.domain.access import Actor, Operator
from services.domain.audit import Author


async def author_of(request: Request) -> Author:
    """Dependency: the key whose scope was checked, of a tenant or of an operator."""
    client = request.client.host if request.client else ""
    operator: Operator | None = getattr(request.state, "operator", None)
    if operator is not None:
        return Author(kind="operator", id=operator.key_id, client=client)
    actor: Actor = request.state.actor
    return Author(kind="key", id=actor.key_id, member_id=actor.member_id, client=client)


AuthorDep = Annotated[Author, Depends(author_of)]
