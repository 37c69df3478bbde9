"""/v1/worker: everything that a remote worker may do. It is no part of the public contract.

Each worker is of the same version as the service, or the one before; `reverie worker --join` is the
only client.
"""

from fastapi import APIRouter

from services.api.worker import attempts, objects, offers

router = APIRouter()
for part in (offers.router, offers.waiting, attempts.router, objects.router):
    router.include_router(part)
