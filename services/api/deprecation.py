"""Operations that will go away: announced by headers and in the OpenAPI document."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Deprecation:
    """What a client is told; times are in UTC."""

    since: datetime
    sunset: datetime
    """From then on the operation may be missing."""
    link: str
    """A page that says what to use in its place."""

    def headers(self) -> dict[str, str]:
        """As in RFC 9745 and RFC 8594."""
        return {
            "Deprecation": f"@{int(self.since.timestamp())}",
            "Sunset": format_datetime(self.sunset, usegmt=True),
            "Link": f'<{self.link}>; rel="deprecation"; type="text/html"',
        }


Deprecations = Mapping[str, Deprecation]
"""Method and path template, such as ``GET /v1/runs/{run_id}`` → its end."""
DEPRECATED: Final[Deprecations] = {}
