"""Which environment variables of this process a child process may see.

It is an allow-list, so that no secret of the service reaches code that processes tenants' data: it
contains no token and no credential of the database, broker, object store or AWS.
"""

from collections.abc import Mapping
from typing import Final

_NAMES: Final = frozenset(
    {
        "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH",
        "PYTHONPATH", "PYTHONHASHSEED", "PYTHONFAULTHANDLER", "VIRTUAL_ENV",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "XDG_CACHE_HOME",
        # Faults for tests; the child rejects them unless REVERIE_ENV is `test`.
        "REVERIE_ENV", "FAULT_AT", "FAULT_ONCE", "FAULT_RANK",
    }
)  # fmt: skip
_PREFIXES: Final = (
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "GLOO_",
    "PYTORCH_",
    "TORCH_",
    "TORCHINDUCTOR_",
    "TRITON_",
)


def environment_for_child(env: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed part of ``env``, with network access of model libraries disabled."""
    allowed = {
        name: value for name, value in env.items() if name in _NAMES or name.startswith(_PREFIXES)
    }
    return {**allowed, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
