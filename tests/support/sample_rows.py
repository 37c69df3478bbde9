"""Pictures of a run as rows, and events that make none."""

from typing import Any

from services.store import run_samples
from services.store.run_samples import Sample
from tests.support.run_samples import png
from tests.support.runs import TenantDatabase

RED, BLUE = png((200, 0, 0)), png((0, 0, 200))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "other bytes": ({"sha256": "0" * 64}, "its file is not what the training process reported"),
    "longer": ({"size_bytes": len(RED) - 1}, "its file is not what the training process reported"),
    "other size": ({"width_px": 48}, "its file is no PNG picture of 48 by 48 px"),
    "outside": ({"path": "../step-000001/x.png"}, "its event is not as it has to be (path: "),
    "dots": ({"path": "samples/step-1/../../x.png"}, "its event is not as it has to be (path: "),
    "absolute": ({"path": "/samples/step-1/x.png"}, "its event is not as it has to be (path: "),
    "no text": ({"path": 3}, "its event is not as it has to be (path: "),
    "hidden": ({"path": "samples/step-1/.x.png"}, "its event is not as it has to be (path: "),
    "line feed": ({"path": "samples/step-1/x.png\n"}, "its event is not as it has to be (path: "),
    "weights": ({"weights": "other"}, "its event is not as it has to be (weights: "),
    "too large": ({"size_bytes": 1 << 30}, "its event is not as it has to be (size_bytes: "),
    "infinite": ({"guidance": float("inf")}, "its event is not as it has to be (guidance: "),
}
"""Name → facts other than the true ones of a RED picture, and what is said of them."""


def rows_of(tenant: TenantDatabase, run_id: str, **query: Any) -> list[Sample]:
    with tenant.database.transaction() as conn:
        asked: dict[str, Any] = {"step": None, "name": None, "after": None, "limit": 100, **query}
        return run_samples.page(conn, tenant.tenant_id, run_id, **asked)
