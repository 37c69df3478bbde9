"""How remote workers and the service agree that they understand each other."""

from typing import Final

WORKER_PROTOCOL: Final = 1
"""Raised with each change of ``/v1/worker`` that a worker of the version before would not bear."""
