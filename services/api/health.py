"""/healthz and /readyz. Redis is not asked: this process does not use it, the dispatcher does."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.api.head_routes import HeadRoute
from services.api.service import ServiceDep
from services.objects.keys import PROBE_PREFIX
from services.store import health

router = APIRouter(tags=["health"], route_class=HeadRoute)

_SILENCE: Final = timedelta(seconds=30)


class Readiness(BaseModel):
    """Requests are answered in either case."""

    status: Literal["ok", "degraded"]
    degraded: Annotated[
        list[str],
        Field(
            description="What does not work: `dispatcher` (runs wait), `broker` (Redis; runs wait),"
            " `database_restored` (runs wait until the restore of a backup is finished)."
        ),
    ]


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """200: the process answers. It needs no thread, so it answers when all of them are taken."""
    return {"status": "ok"}


@router.get("/readyz", response_model=Readiness)
def readyz(service: ServiceDep) -> Readiness:
    """200: database and object store answer; 503 with the code of the one that does not."""
    with service.unscoped.transaction() as conn:
        degraded = health.degraded(conn, silence=_SILENCE)
    service.objects.size(f"{PROBE_PREFIX}ready")
    return Readiness(status="degraded" if degraded else "ok", degraded=degraded)
