"""The reasons for which runs are postponed or fail at admission."""

from collections.abc import Sequence
from typing import Final

from services.domain.failures import VERIFICATION_FAILED, infra_failure
from services.store.datasets import Dataset
from trainer_core.errors import AdapterFileError, Category
from trainer_core.process.failure import Failure

_ERRORS_SHOWN: Final = 20


def base_model_missing(name: str) -> Failure:
    """No base model of this name is installed at the moment."""
    message = f"The base model {name} is not installed at the moment; ask the service's operator."
    return infra_failure("base_model_missing", message)


def data_index_too_large(
    num_images: int, num_captions: int, size_bytes: int, limit_bytes: int
) -> Failure:
    """The data index is larger than the database can store for one run."""
    return Failure(
        code="data_index_too_large",
        category=Category.USER,
        message=(
            f"The data of this run is too much for one run: the list of its {num_images} images"
            f" and {num_captions} captions takes {_mb(size_bytes)}, at most {_mb(limit_bytes)} can"
            " be stored. Shorten the captions, or use datasets with fewer files."
        ),
        retryable=False,
    )


def captions_too_large(size_bytes: int, limit_bytes: int) -> Failure:
    """The caption files alone are more than the service reads for one run."""
    return Failure(
        code="data_index_too_large",
        category=Category.USER,
        message=(
            f"The data of this run is too much for one run: its caption files take"
            f" {_mb(size_bytes)}, at most {_mb(limit_bytes)} are read. Shorten the captions, or use"
            " datasets with fewer files."
        ),
        retryable=False,
    )


def run_damaged() -> Failure:
    """Rows of the run are missing or hold nonsense, and stay so."""
    return Failure(
        code="run_damaged",
        category=Category.PLATFORM,
        message=(
            "What the service has stored of this run is damaged; this is a fault of the service."
            " Submit the run again; if that fails, too, with new datasets."
        ),
        retryable=False,
    )


def start_unusable(message: str) -> Failure:
    """The adapter that the run starts from is none, or does not fit the run."""
    return Failure(
        code=AdapterFileError.code,
        category=Category.USER,
        message=f"init_lora: {message}.",
        retryable=False,
    )


def rejection_of(named: Sequence[Dataset]) -> Failure | None:
    """The reason to fail the run where one of its datasets was rejected; it names the files."""
    rejected = [dataset for dataset in named if dataset.status == "rejected"]
    if not rejected:
        return None
    errors = [error for dataset in rejected for error in dataset.errors]
    messages = [error["message"] for error in errors[:_ERRORS_SHOWN]]
    if len(errors) > _ERRORS_SHOWN:
        messages.append(f"and {len(errors) - _ERRORS_SHOWN} more")
    code = str(errors[0]["code"]) if errors else "dataset_rejected"
    if any(error["code"] == VERIFICATION_FAILED for error in errors):
        code = VERIFICATION_FAILED
    return Failure(
        code=code,
        category=Category.PLATFORM if code == VERIFICATION_FAILED else Category.USER,
        message="; ".join(messages) or f"Dataset {rejected[0].dataset_id} was rejected.",
        retryable=False,
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
