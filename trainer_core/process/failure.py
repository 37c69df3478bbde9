"""Describe the failure of a process with the same four fields everywhere."""

import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.disk import DiskError, error_number
from trainer_core.errors import Category, GpuMemoryTakenError, TrainerError
from trainer_core.process.card_memory import bytes_taken, taken_in_words


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why something failed, for the user and for the service."""

    code: str
    """Public; never renamed."""
    category: Category
    message: str
    retryable: bool
    """Whether the same work may succeed without a change."""


def failure_as_json(failure: Failure) -> dict[str, JsonValue]:
    """``{code, category, message, retryable}``, as it is stored and sent."""
    return {
        "code": failure.code,
        "category": failure.category.value,
        "message": failure.message,
        "retryable": failure.retryable,
    }


def failure_from_json(body: Mapping[str, Any]) -> Failure:
    """The inverse of ``failure_as_json``; raises KeyError or ValueError for anything else."""
    return Failure(
        code=body["code"],
        category=Category(body["category"]),
        message=body["message"],
        retryable=body["retryable"],
    )


def failure_reported(body: Mapping[str, Any]) -> Failure:
    """The failure that a child process reported. Missing or unknown fields get defaults.

    An unknown category counts as ``platform``. A user's error is never retryable.
    """
    try:
        category = Category(str(body.get("category")))
    except ValueError:
        category = Category.PLATFORM
    return Failure(
        code=str(body.get("code", "unknown")),
        category=category,
        message=str(body.get("message", "")),
        retryable=bool(body.get("retryable")) and category is not Category.USER,
    )


_DISK_FULL: Final = ("disk_full", "The disk of the machine that did the work is full.")
_DISK_FAILED: Final = ("disk_failed", "The disk of the machine that did the work failed.")
_TOO_MANY_FILES: Final = (
    "too_many_open_files",
    "The machine that did the work has too many open files.",
)
_OF_CODE: Final = {code: (code, text) for code, text in (_DISK_FULL, _DISK_FAILED)}
_OF_MACHINE: Final[Mapping[int | None, tuple[str, str]]] = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EFBIG: _DISK_FULL,
    errno.EIO: _DISK_FAILED,
    errno.EROFS: _DISK_FAILED,
    errno.ESTALE: _DISK_FAILED,
    errno.ENOTCONN: _DISK_FAILED,
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
}
"""Error number of the system → code and message of a failure of the machine."""
MACHINE_CODES: Final = frozenset(code for code, _ in _OF_MACHINE.values())
"""Codes of failures of the machine's disk, or of its limit of open files."""
_MORE_MEMORY: Final = (
    "Lower train_batch_size or resolution, quantize the base model, or turn on "
    "gradient_checkpointing."
)
_GPU_LIBRARIES: Final = (
    "CUDA error",
    "CUDA driver error",
    "CUBLAS_STATUS_",
    "CUDNN_STATUS_",
    "NVML",
)
"""How torch's messages start, or the statuses that they name, where a GPU or its driver failed."""


def failure_of(error: BaseException) -> Failure:
    """The failure to report for an error, in any process.

    A TrainerError has its own code and message. For an unexpected error only the class is named,
    because its text may contain secrets or paths. It is retryable because its cause is unknown.
    """
    match error:
        case _ if (known := _known_of_machine(error)) is not None:
            return _of_machine(*known)
        case TrainerError():
            return Failure(
                code=error.code,
                category=error.category,
                message=error.message,
                retryable=error.retryable,
            )
        case KeyboardInterrupt():
            return Failure(
                code="interrupted",
                category=Category.USER,
                message="The run was interrupted at once, without a checkpoint.",
                retryable=True,
            )
        case _ if _is_out_of_gpu_memory(error):
            return _out_of_memory()
        case _ if _is_gpu_error(error):
            return _of_machine("gpu_failed", "The GPU or its driver failed.")
    return Failure(
        code="internal_error",
        category=Category.PLATFORM,
        message=f"An internal error ended the work ({type(error).__name__}).",
        retryable=True,
    )


def _known_of_machine(error: BaseException) -> tuple[str, str] | None:
    """Code and message where a disk failed, or the limit of open files is reached.

    The message is not that of a DiskError, which names a place on the machine.
    """
    if isinstance(error, DiskError):
        return _OF_CODE[error.code]
    return _OF_MACHINE.get(error_number(error))


def _out_of_memory() -> Failure:
    try:
        taken_bytes = bytes_taken()
    except Exception:  # noqa: BLE001 - the first error must be reported, whatever the GPU answers
        taken_bytes = 0
    if taken_bytes:
        return _of_machine(GpuMemoryTakenError.code, taken_in_words(taken_bytes))
    return Failure(
        code="out_of_memory",
        category=Category.USER,
        message=f"The accelerator's memory is too small for this run. {_MORE_MEMORY}",
        retryable=False,
    )


def _of_machine(code: str, message: str) -> Failure:
    return Failure(code=code, category=Category.INFRA, message=message, retryable=True)


def _is_out_of_gpu_memory(error: BaseException) -> bool:
    if _is_of(error, "torch", "OutOfMemoryError"):
        return True
    return _is_gpu_error(error) and "out of memory" in str(error)


def _is_gpu_error(error: BaseException) -> bool:
    """Torch raises its AcceleratorError for most of them, and RuntimeError for its libraries'."""
    if _is_of(error, "torch", "AcceleratorError"):
        return True
    return (
        "torch" in sys.modules
        and isinstance(error, RuntimeError)
        and any(name in str(error) for name in _GPU_LIBRARIES)
    )


def _is_of(error: BaseException, library: str, name: str) -> bool:
    """Looks at a library only if it is imported: otherwise it cannot have raised the error."""
    kind = getattr(sys.modules.get(library), name, None)
    return isinstance(kind, type) and isinstance(error, kind)
