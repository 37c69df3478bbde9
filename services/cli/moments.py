"""Times and spans as options: ``90d``, ``12h``, or a time in RFC 3339."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from services.cli.connection import CommandError

Expires = Annotated[
    str | None, typer.Option(metavar="SPAN|TIME", help="Such as 90d, or 2030-01-31T12:00:00Z.")
]
"""When a key stops working."""

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN: Final = re.compile(r"(\d{1,9})([smhdw])")


def span_of(option: str, text: str) -> timedelta:
    """A span such as ``12h``; raises CommandError."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise CommandError(f"{option} is {text}; it has to be a span such as 30m, 12h or 90d")
    return timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])


def moment_of(option: str, text: str) -> datetime:
    """A time in UTC: that of the text, or so long from now; raises CommandError."""
    try:
        if _SPAN.fullmatch(text):
            return datetime.now(UTC) + span_of(option, text)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option} is {text}; it has to be a span such as 90d, or a time such as "
            "2030-01-31T12:00:00Z"
        ) from None


def expiry_of(expires: str | None) -> datetime | None:
    """The time that --expires names; None: never. Raises CommandError."""
    return None if expires is None else moment_of("--expires", expires)


def rfc3339(moment: datetime | None) -> str | None:
    """The time as JSON has it; None stays None."""
    return None if moment is None else moment.isoformat()
