"""Usage and quotas as JSON."""

from typing import Literal

from services.api.shapes import Shape


class ClassUsage(Shape):
    """The GPU time of one class."""

    gpu_class: str
    charged_s: float
    """Seconds of training and sampling."""
    cost_micros: int
    """Their price, in millionths of the currency."""
    currency: str | None
    """ISO 4217; null where the class has no price."""


class MonthUsage(Shape):
    """What was charged in a calendar month (UTC)."""

    id: str
    """Such as ``2026-11``."""
    object: Literal["month_usage"] = "month_usage"
    gpu_classes: list[ClassUsage]


class Quota(Shape):
    """One limit of the tenant."""

    id: str
    """Its name, such as ``gpu_hours``; docs/reference/http.md says what each one counts."""
    object: Literal["quota"] = "quota"
    limit: int | float
    used: int | float | None
    """Now; null for a quota of requests, whose use the RateLimit headers tell."""
    is_default: bool
    """Whether it is the service's default, not set for this tenant."""
