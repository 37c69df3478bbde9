"""Turns tracing on for this process. Without an endpoint OpenTelemetry is not even imported."""

from services.settings.env import SettingsError
from services.traces import spans


def start_tracing(service: str, endpoint: str | None) -> None:
    """Send the spans of this process to ``endpoint`` until it ends; does nothing for None.

    Call it once, after any fork. What is left at the end of the process is sent within 2 s, or
    lost.

    Args:
        service: name of the process, as in log lines.
        endpoint: base address of an OTLP receiver (REVERIE_OTLP_ENDPOINT).

    Raises SettingsError where OpenTelemetry is not installed.
    """
    if endpoint is None:
        return
    try:
        from services.traces.sending import open_tracer  # noqa: PLC0415 - imports OpenTelemetry
    except ImportError:
        raise SettingsError(
            "REVERIE_OTLP_ENDPOINT is set and OpenTelemetry is not installed:"
            " run pip install 'reverie[traces]', or unset it"
        ) from None
    spans.use(open_tracer(service, endpoint))
