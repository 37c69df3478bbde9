"""The setting of cuBLAS that deterministic products need. Imports no torch."""

from collections.abc import MutableMapping
from typing import Final

from trainer_core.config.plan import Operation

_VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"
_FIXED: Final = ":4096:8"
"""Eight pieces of 4 MiB, as much as torch takes by itself on cards of capability 9 and 10."""


def fix_workspace(operation: Operation, env: MutableMapping[str, str]) -> None:
    """Fix cuBLAS's workspace where the plan is deterministic, for this process.

    Its products may depend on the workspace. torch reads the variable at its first product on a
    card and never again, and refuses deterministic products with any other value than two fixed
    ones. So call this before anything is computed; a value that was set is replaced.
    """
    if operation.deterministic:
        env[_VARIABLE] = _FIXED
