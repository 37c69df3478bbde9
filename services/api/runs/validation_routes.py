"""POST /v1/runs:validate."""

from typing import Any, Final, cast

from fastapi import APIRouter, Request

from services.api.json_body import no_body
from services.api.routing import JsonRequest, TenantRoute
from services.api.runs.validation import validate
from services.api.runs.validation_shapes import Validation
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.domain.request_rates import RatePolicy


class CreateRateRoute(TenantRoute):
    """Its requests cost as much as those that create a run, and count like them."""

    def policy_of(self, request: Request) -> RatePolicy:
        del request
        return RatePolicy.CREATE


router = APIRouter(prefix="/v1", tags=["runs"], route_class=CreateRateRoute)

_DOCUMENTED: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "$ref": "#/components/schemas/JsonValue",
                    "description": "As for POST /v1/runs, without datasets if they are not known "
                    "yet; or {clone_of, changes}. What is wrong with it is part of the answer.",
                }
            }
        },
    },
    **needs("runs:read"),
}


@router.post("/runs:validate", openapi_extra=_DOCUMENTED)
def validate_run(request: Request, service: ServiceDep, tenant_id: TenantDep) -> Validation:
    """What POST /v1/runs would do with this body, and what the run would need: 200 for any JSON.

    ``is_valid`` is true exactly where that would answer 201; ``problems`` lists everything that is
    wrong. Nothing is stored.
    """
    sent = cast(JsonRequest, request)
    if not sent.has_body:
        raise no_body()
    return validate(service, tenant_id, sent.parsed)
