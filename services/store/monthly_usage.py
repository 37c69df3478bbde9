"""What a tenant used in each month, by GPU class."""

from dataclasses import dataclass
from datetime import date
from typing import Final

from psycopg.rows import class_row

from services.store.database import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassUsage:
    """The GPU time of one class in one month."""

    month: date
    """Its first day; months are those of UTC."""
    gpu_class: str
    charged_s: float
    cost_micros: int
    currency: str | None
    """ISO 4217; None for a class without a price."""


_MONTHS: Final = """
SELECT month, gpu_class, charged_s, cost_micros, currency
FROM monthly_usage LEFT JOIN gpu_classes USING (gpu_class)
WHERE tenant_id = %(tenant_id)s AND month IN (
    SELECT DISTINCT month FROM monthly_usage
    WHERE tenant_id = %(tenant_id)s AND (%(before)s::date IS NULL OR month < %(before)s)
    ORDER BY month DESC LIMIT %(limit)s)
ORDER BY month DESC, gpu_class
"""


def months(
    conn: Connection, tenant_id: str, limit: int, before: date | None = None
) -> dict[date, list[ClassUsage]]:
    """The newest months in which time was charged, newest first, each with its GPU classes.

    Args:
        before: only months before this one.
    """
    facts = {"tenant_id": tenant_id, "limit": limit, "before": before}
    found: dict[date, list[ClassUsage]] = {}
    with conn.cursor(row_factory=class_row(ClassUsage)) as cursor:
        for row in cursor.execute(_MONTHS, facts):
            found.setdefault(row.month, []).append(row)
    return found
