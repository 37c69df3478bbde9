"""How torch reserves memory on a CUDA card."""

from collections.abc import MutableMapping
from typing import Final

_CONFIGURATION: Final = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The variables that torch reads; the second is its older name."""


def let_segments_grow(env: MutableMapping[str, str]) -> None:
    """Let reserved memory grow where it is, so that buckets of other sizes leave no holes in it.

    A configuration that is set already stays as it is. Torch reads it when it is imported.
    """
    if not any(name in env for name in _CONFIGURATION):
        env[_CONFIGURATION[0]] = "expandable_segments:True"
