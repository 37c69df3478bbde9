"""/v1/admin: what operators do. These routes see the rows of all tenants."""

from fastapi import APIRouter

from services.api.admin import api_keys, audit_log, deletions, fleet, tenants, worker_keys

router = APIRouter()
for noun in (tenants, api_keys, audit_log, deletions, fleet, worker_keys):
    router.include_router(noun.router)
