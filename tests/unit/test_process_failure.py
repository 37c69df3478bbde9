"""One function says why a process ended, for every process."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from trainer_core.errors import BadImageError, Category, ShardMissingError
from trainer_core.process.failure import (
    Failure,
    failure_as_json,
    failure_from_json,
    failure_of,
    failure_reported,
)


@pytest.mark.parametrize("error", [BadImageError("a.png is torn"), ShardMissingError("none came")])
def test_an_error_of_ours_is_reported_as_it_says(error: BadImageError | ShardMissingError) -> None:
    failure = failure_of(error)

    assert (failure.code, failure.message) == (error.code, error.message)
    assert (failure.category, failure.retryable) == (error.category, error.retryable)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_a_code_of_its_own_and_names_no_path(number: int) -> None:
    failure = failure_of(OSError(number, "No space left on device", "/scratch/secret"))

    assert (failure.code, failure.category, failure.retryable) == ("disk_full", "infra", True)
    assert "secret" not in failure.message


def test_a_full_disk_is_recognised_in_an_error_of_safetensors() -> None:
    full = SafetensorError("I/O error: No space left on device (os error 28)")

    assert (failure_of(full).code, failure_of(full).retryable) == ("disk_full", True)
    assert failure_of(SafetensorError("InvalidHeader")).code == "internal_error"
    assert failure_of(ValueError("I/O error (os error 28)")).code == "internal_error"


def test_any_other_error_is_internal_and_only_its_class_is_named() -> None:
    for error in (RuntimeError("a secret"), OSError(errno.EACCES, "a secret"), MemoryError()):
        failure = failure_of(error)
        assert (failure.code, failure.category) == ("internal_error", Category.PLATFORM)
        assert type(error).__name__ in failure.message
        assert "secret" not in failure.message


def test_an_interrupted_run_is_the_users_and_may_be_repeated() -> None:
    failure = failure_of(KeyboardInterrupt())

    assert (failure.code, failure.category, failure.retryable) == ("interrupted", "user", True)


def test_torchs_out_of_memory_error_is_recognised_by_its_class_not_its_name() -> None:
    torch = pytest.importorskip("torch")

    class OutOfMemoryError(Exception):
        """Only its name is the same."""

    class Derived(torch.OutOfMemoryError):  # type: ignore[misc]
        """Another name, but the same meaning."""

    assert failure_of(torch.OutOfMemoryError("CUDA out of memory")).code == "out_of_memory"
    assert failure_of(torch.cuda.OutOfMemoryError("CUDA out of memory")).code == "out_of_memory"
    assert failure_of(Derived()).code == "out_of_memory"
    assert failure_of(OutOfMemoryError()).code == "internal_error"


def test_an_exhausted_card_comes_with_advice() -> None:
    torch = pytest.importorskip("torch")

    failure = failure_of(torch.OutOfMemoryError("CUDA out of memory"))

    assert "train_batch_size" in failure.message
    assert not failure.retryable


@pytest.mark.parametrize(
    ("free_gib", "own_gib", "code"),
    [(1, 60, "gpu_memory_taken"), (1, 78, "out_of_memory"), (0, 80, "out_of_memory")],
)
def test_memory_that_other_processes_hold_is_not_the_runs(
    free_gib: int, own_gib: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_gib << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: own_gib << 30)

    failure = failure_of(torch.OutOfMemoryError("CUDA out of memory"))

    assert failure.code == code
    assert failure.retryable == (code == "gpu_memory_taken")
    if code == "gpu_memory_taken":
        assert failure.message == "Other processes hold 19.0 GiB of the GPU's memory."


def test_a_card_that_others_fill_is_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    def refuse(_: None) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)  # there is no room for a context
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    card = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)

    failure = failure_of(RuntimeError("CUDA error: out of memory"))

    assert (failure.code, failure.retryable) == ("gpu_memory_taken", True)


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("AcceleratorError", "CUDA error: uncorrectable ECC error encountered", "gpu_failed"),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", "gpu_failed"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling", "gpu_failed"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "gpu_failed"),
        ("AcceleratorError", "CUDA error: out of memory", "out_of_memory"),
        ("RuntimeError", "shapes differ", "internal_error"),
    ],
)
def test_errors_of_the_card_have_a_code_of_their_own(kind: str, text: str, code: str) -> None:
    torch = pytest.importorskip("torch")
    error_type = getattr(torch, kind, RuntimeError)

    failure = failure_of(error_type(text))

    assert failure.code == code
    assert text not in failure.message


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, "disk_failed"),
        (errno.EROFS, "disk_failed"),
        (errno.EMFILE, "too_many_open_files"),
    ],
)
def test_failures_of_the_machine_are_not_the_runs(number: int, code: str) -> None:
    failure = failure_of(OSError(number, "a secret"))

    assert (failure.code, failure.category, failure.retryable) == (code, "infra", True)


def test_explaining_an_error_does_not_import_torch() -> None:
    program = (
        "import sys\n"
        "from trainer_core.process.failure import failure_of\n"
        "assert failure_of(ValueError()).code == 'internal_error'\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_missing_fields_of_a_reported_failure_get_defaults() -> None:
    failure = failure_of(ShardMissingError("none came"))
    assert failure_reported(failure_as_json(failure)) == failure
    assert failure_from_json(failure_as_json(failure)) == failure

    user = {"code": "bad_image", "category": "user", "message": "torn", "retryable": True}
    assert not failure_reported(user).retryable
    assert failure_reported({"category": "nobody"}) == Failure(
        code="unknown", category=Category.PLATFORM, message="", retryable=False
    )
