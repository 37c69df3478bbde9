"""/healthz and /readyz. Redis is not asked: this process never speaks to it."""

from fastapi import APIRouter

from services.api.service import ServiceDep
from services.objects.keys import PROBE_PREFIX

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """200: the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: ServiceDep) -> dict[str, str]:
    """200: database and object store answer; 503 says which one does not."""
    with service.database.transaction():
        pass  # a connection is tried before it is handed out
    service.objects.size(f"{PROBE_PREFIX}ready")
    return {"status": "ok"}
