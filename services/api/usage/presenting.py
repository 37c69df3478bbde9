"""Rows of usage and quotas as the shapes that tenants see."""

from collections.abc import Mapping, Sequence
from datetime import date

from services.api.usage.shapes import ClassUsage, MonthUsage, Quota
from services.store.monthly_usage import ClassUsage as ClassUsageRow
from services.store.quotas import QuotaState

MONTH = "%Y-%m"


def month_shape(month: tuple[date, Sequence[ClassUsageRow]]) -> MonthUsage:
    first_day, classes = month
    return MonthUsage(
        id=first_day.strftime(MONTH),
        gpu_classes=[
            ClassUsage(
                gpu_class=each.gpu_class,
                charged_s=each.charged_s,
                cost_micros=each.cost_micros,
                currency=each.currency,
            )
            for each in classes
        ],
    )


def quota_shapes(found: Mapping[str, QuotaState]) -> list[Quota]:
    return [
        Quota(id=name, limit=each.limit, used=each.used, is_default=each.is_default)
        for name, each in found.items()
    ]
