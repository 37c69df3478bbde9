"""Describe the failure of a process with the same four fields everywhere."""

import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.errors import Category, TrainerError


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


_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def failure_of(error: BaseException) -> Failure:
    """The failure to report for an error, in any process.

    A TrainerError has its own code and message. For an unexpected error only the class is named,
    because its text may contain secrets or paths. It is retryable because its cause is unknown.
    """
    match error:
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
        case OSError() if error.errno in _DISK_FULL:
            return Failure(
                code="disk_full",
                category=Category.INFRA,
                message="The disk of the machine that did the work is full.",
                retryable=True,
            )
        case _ if _is_torch_out_of_memory(error):
            return Failure(
                code="out_of_memory",
                category=Category.USER,
                message="The accelerator's memory is too small for this run.",
                retryable=False,
            )
    return Failure(
        code="internal_error",
        category=Category.PLATFORM,
        message=f"An internal error ended the work ({type(error).__name__}).",
        retryable=True,
    )


def _is_torch_out_of_memory(error: BaseException) -> bool:
    """Looks at torch only if it is imported: otherwise it cannot have raised the error."""
    kind = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    return isinstance(kind, type) and isinstance(error, kind)
