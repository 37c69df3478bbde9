"""Structured logs to standard error; secrets are removed from every line."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_NAME: Final = re.compile(
    r"(^|_)(token|key|pepper|secret|password|authorization|signature|credential)s?$", re.IGNORECASE
)
# Clients write these texts. Each pattern passes over a text once: no part of a text is matched from
# many starts. For a path of 8,000 characters that took half a second.
_QUERY: Final = re.compile(r"(https?://(?:(?!https?://)[^\s?#])+)\?\S*", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(\b\w+://)[^\s/@]+@")
_TOKEN: Final = re.compile(
    r"\b(?:rv[a-z]?_[A-Za-z0-9_-]{8,}|hf_(?:oauth_)?[A-Za-z0-9._-]{16,}|whsec_[A-Za-z0-9+/=]{16,})"
)
"""API keys, tokens of the Hub, and keys of webhooks."""
_REDACTED: Final = "[redacted]"


def configure(service: str, fmt: str) -> None:
    """Set up structlog, and standard logging at WARNING, for this process.

    Args:
        service: name of the process in every line, such as ``dispatcher``.
        fmt: ``console`` or ``json``.
    """
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )

    # Not a context variable: a new thread does not inherit its parent's.
    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, "service": service}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_service,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact values whose name or format marks them as secrets, at any depth."""
    return {name: _clean(name, value) for name, value in event.items()}


def redacted(text: str) -> str:
    """The text without keys and tokens, passwords in addresses and signed queries."""
    text = _QUERY.sub(_without_signature, text)
    text = _USERINFO.sub(rf"\1{_REDACTED}@", text)
    return _TOKEN.sub(_REDACTED, text)


def _without_signature(query: re.Match[str]) -> str:
    is_signed = "signature" in query[0].lower()
    return f"{query[1]}?{_REDACTED}" if is_signed else query[0]


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return _REDACTED
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", inner) for inner in value]
    return value
