"""/v1/admin: what operators do. These routes see the rows of all tenants."""

from fastapi import APIRouter

from services.api.admin import api_keys, audit_log, deletions, fleet, tenants

router = APIRouter()
for noun in (tenants, api_keys, audit_log, deletions, fleet):
    router.include_router(noun.router)
