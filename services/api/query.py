"""What a request may carry beside its body: known query parameters, and single headers once."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Header, Query

from services.api.errors import RepeatedHeaderError
from services.domain.errors import InvalidRequestError, Problem

_IF_MATCH: Final = "If-Match"
_READING: Final = frozenset({"GET", "HEAD"})
SINGLE_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    _IF_MATCH,
    "Last-Event-ID",
)
"""Of two such headers this server could read one, and a proxy before it the other."""
_KEY: Final = "[…]"


def query_names(dependant: Dependant, described: Mapping[str, Any]) -> frozenset[str]:
    """The query parameters of a route. Each may be given once.

    Args:
        described: in its ``openapi_extra``; one of the style ``deepObject`` is ``name[…]``.
    """
    found = get_flat_params(dependant)
    plain = {each.alias for each in found if isinstance(each.field_info, Query)}
    deep = {
        f"{each['name']}{_KEY}"
        for each in described.get("parameters", [])
        if each.get("style") == "deepObject"
    }
    return frozenset(plain | deep)


def takes_if_match(dependant: Dependant) -> bool:
    """Whether a route compares versions."""
    found = get_flat_params(dependant)
    return any(isinstance(each.field_info, Header) and each.alias == _IF_MATCH for each in found)


def check_parameters(request: Request, names: frozenset[str], *, is_conditional: bool) -> None:
    """Refuse query parameters that the route does not have, and what is given twice.

    And a change under a condition that the route would not look at. Raises InvalidRequestError and
    RepeatedHeaderError.
    """
    for header in SINGLE_HEADERS:
        if len(request.headers.getlist(header)) > 1:
            raise RepeatedHeaderError(f"Send one {header} header.")
    problems = list(_about_query(request, names))
    if _IF_MATCH in request.headers and request.method not in _READING and not is_conditional:
        message = "This address compares no versions: leave it out."
        problems.append(Problem(pointer=f"header:{_IF_MATCH}", code="refused", message=message))
    if problems:
        raise InvalidRequestError(problems)


def _about_query(request: Request, names: frozenset[str]) -> Iterator[Problem]:
    for name in dict.fromkeys(request.query_params):
        pointer = f"query:{name}"
        if _without_key(name) not in names:
            message = f"There is no such parameter; {_hint(name, names)}."
            yield Problem(pointer=pointer, code="unknown_parameter", message=message)
        elif len(request.query_params.getlist(name)) > 1:
            yield Problem(pointer=pointer, code="repeated", message="Give this parameter once.")


def _without_key(name: str) -> str:
    """``metadata[team]`` → ``metadata[…]``."""
    start, bracket, _ = name.partition("[")
    return f"{start}{_KEY}" if bracket and name.endswith("]") else name


def _hint(name: str, names: frozenset[str]) -> str:
    if not names:
        return "this address has none"
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    return f"the nearest is {near[0]}" if near else f"this address has {', '.join(sorted(names))}"
