"""The route of secrets: no body reaches a disk, and no problem quotes what was sent.

A value that was sent as the name of a field by mistake is a secret, too.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from services.api.errors import InvalidJsonError
from services.api.problems import shape_problem
from services.api.routing import TenantRoute
from services.api.spooled_body import IN_MEMORY_BYTES
from services.domain.errors import InvalidRequestError, Problem

_POINTERS: Final = frozenset({"", "/kind", "/value", "path:name", "query:limit", "query:after"})
"""What a problem may name; headers as well."""


class SecretRoute(TenantRoute):
    """Its bodies are short, and its problems name known fields only."""

    body_limit_bytes = IN_MEMORY_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_unquoted(request: Request) -> Response:
            try:
                return await handle(request)
            except InvalidJsonError:
                message = "The body is no JSON object with kind and value, each of them once."
                raise InvalidJsonError(message) from None
            except RequestValidationError as error:
                found = [shape_problem(each) for each in error.errors()]
                raise InvalidRequestError([_unquoted(each) for each in found]) from None
            except InvalidRequestError as error:
                raise InvalidRequestError([_unquoted(each) for each in error.problems]) from None

        return handle_unquoted


def _unquoted(problem: Problem) -> Problem:
    """The problem, where it names a known field or parameter; else the same without the name."""
    if problem.pointer in _POINTERS or problem.pointer.startswith("header:"):
        return problem
    if problem.pointer.startswith("query:"):  # whose message names known parameters only
        return Problem(pointer="query:", code=problem.code, message=problem.message)
    message = "There is a field that this address does not have; it is not quoted."
    return Problem(pointer="", code=problem.code, message=message)
