"""What a route needs: the scope of an API key, said at its definition beside the errors it raises.

``TenantRoute`` enforces it, and the OpenAPI document shows it.
"""

from typing import Any, Final

from fastapi.routing import APIRoute

from services.api.errors import ScopeMissingError
from services.domain.access import SCOPES_OF, Actor, Scope
from services.domain.errors import DomainError

RAISES: Final = "x-raises"
SCOPE: Final = "x-scope"
ADMIN: Final = "/v1/admin"
"""Addresses below it are for operators."""
OPERATOR: Final = "operator"
"""In the place of a scope: the route needs an operator's key."""

WORKER_PATH: Final = "/v1/worker"
"""Addresses at and below it are for remote workers."""
WORKER: Final = "worker"
"""In the place of a scope: the route needs a remote worker's key."""


class RouteWithoutScopeError(Exception):
    """A route under /v1 does not name the scope that it needs, or does not ask for a key."""


def needs(scope: Scope, *errors: type[DomainError]) -> dict[str, Any]:
    """``openapi_extra`` of a route.

    Args:
        scope: of the API keys that may use it.
        errors: of its own, which other routes do not raise.
    """
    return {SCOPE: scope, RAISES: [kind.code for kind in errors]}


def needs_operator(*errors: type[DomainError]) -> dict[str, Any]:
    """``openapi_extra`` of a route for operators, which may use all of those."""
    return {SCOPE: OPERATOR, RAISES: [kind.code for kind in errors]}


def needs_worker() -> dict[str, Any]:
    """``openapi_extra`` of a route for remote workers, which may use all of those.

    They are not in the OpenAPI document, so their errors need no names.
    """
    return {SCOPE: WORKER}


def scope_of(route: APIRoute) -> Scope:
    """The scope that the route needs; raises RouteWithoutScopeError."""
    scope: Scope | None = (route.openapi_extra or {}).get(SCOPE)
    if scope is None:
        raise RouteWithoutScopeError(f"{route.path} names no scope: add openapi_extra=needs(…)")
    return scope


def refusal(actor: Actor, scope: Scope) -> ScopeMissingError | None:
    """Why this key may not use a route of this scope; None where it may."""
    if scope in actor.scopes:
        return None
    if scope not in SCOPES_OF[actor.role]:
        roles = " or ".join(role for role, scopes in SCOPES_OF.items() if scope in scopes)
        return ScopeMissingError(
            f"This needs the scope {scope}, which the role {actor.role} does not have. "
            f"Ask an owner of the tenant for the role {roles}."
        )
    return ScopeMissingError(
        f"This needs the scope {scope}, which this key was made without. Use another key, or make "
        f"one with it: reverie keys create --scope {scope}"
    )
