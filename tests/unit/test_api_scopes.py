"""A route under /v1 names its scope where it is defined, or the application is not made."""

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from services.api.routing import TenantRoute, check_routes
from services.api.scopes import RouteWithoutScopeError, needs


def answer() -> dict[str, str]:
    return {}


def test_a_route_without_a_scope_cannot_be_defined() -> None:
    router = APIRouter(prefix="/v1", route_class=TenantRoute)
    with pytest.raises(RouteWithoutScopeError, match="/v1/things names no scope"):
        router.get("/things")(answer)
    router.get("/things", openapi_extra=needs("runs:read"))(answer)


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_route_that_asks_for_no_key_is_found(is_nested: bool) -> None:
    router = APIRouter(prefix="/v1")
    router.get("/things", openapi_extra=needs("runs:read"))(answer)
    app = FastAPI()
    if is_nested:
        outer = APIRouter(route_class=APIRoute)
        outer.include_router(router)
        app.include_router(outer)
    else:
        app.include_router(router)
    with pytest.raises(RouteWithoutScopeError, match="/v1/things asks for no key"):
        check_routes(app.routes)


def test_other_routes_need_no_key() -> None:
    app = FastAPI()
    app.get("/healthz")(answer)
    check_routes(app.routes)
