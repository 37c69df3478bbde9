"""/healthz and /readyz. Redis is not checked: this process does not use it."""

from fastapi import APIRouter

from services.api.service import ServiceDep
from services.objects.keys import PROBE_PREFIX

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """200: the process answers. It needs no thread, so it answers when all of them are taken."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: ServiceDep) -> dict[str, str]:
    """200: database and object store answer; 503 with the code of the one that does not."""
    with service.database.transaction():
        pass  # the pool checks a connection before it hands it out
    service.objects.size(f"{PROBE_PREFIX}ready")
    return {"status": "ok"}
