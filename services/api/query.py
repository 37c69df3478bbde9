"""What a request may carry beside its body: known query parameters, and single headers once."""

import difflib
from collections.abc import Iterator
from typing import Final

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


def query_names(dependant: Dependant) -> frozenset[str]:
    """The query parameters of a route. Each may be given once."""
    found = get_flat_params(dependant)
    return frozenset(each.alias for each in found if isinstance(each.field_info, Query))


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
        if name not in names:
            message = f"There is no such parameter; {_hint(name, names)}."
            yield Problem(pointer=pointer, code="unknown_parameter", message=message)
        elif len(request.query_params.getlist(name)) > 1:
            yield Problem(pointer=pointer, code="repeated", message="Give this parameter once.")


def _hint(name: str, names: frozenset[str]) -> str:
    if not names:
        return "this address has none"
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    return f"the nearest is {near[0]}" if near else f"this address has {', '.join(sorted(names))}"
