"""Where kernels have to be deterministic, and what a run says of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import JsonValue

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Operation
from trainer_core.engine.determinism import (
    environment_changes,
    environment_fingerprint,
    resume_promise,
    set_determinism,
)
from trainer_core.process.cublas import fix_workspace

POINTER = "/config/deterministic"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(exact)


def operation(**options: Any) -> Operation:
    return import_small(options).plan.operation


def test_the_option_is_off_unless_it_is_asked_for() -> None:
    assert not operation().deterministic
    assert operation(deterministic="true").deterministic
    assert notices_of({"deterministic": True}) == notices_of({})
    assert problems_of({"deterministic": "often"}) == [(POINTER, "bad_value")]


def test_it_does_not_change_what_is_trained() -> None:
    plain, exact = (import_small({"deterministic": each}).plan for each in (False, True))

    assert plain.identity_digest() == exact.identity_digest()


def test_a_plan_of_before_the_option_is_not_deterministic() -> None:
    older = operation().model_dump(mode="json")
    del older["deterministic"]

    assert not Operation.model_validate(older).deterministic


def test_on_a_cpu_it_has_no_effect_and_a_warning_says_so() -> None:
    given = {"device": "cpu", "deterministic": True}

    assert any("deterministic: has no effect on a CPU" in each for each in notices_of(given))


@pytest.mark.parametrize("ranks", [{"zero_stage": 2}, {"world_size": 2}])
def test_deepspeed_promises_equal_bits_on_a_cpu_only(ranks: dict[str, int]) -> None:
    given = {"model_type": "full", "lora_type": None, "deterministic": True, **ranks}

    assert problems_of(given) == [(POINTER, "conflict")]
    assert import_small({**given, "device": "cpu"}).plan.operation.zero_stage is not None
    assert import_small({**given, "deterministic": False}).plan.operation.zero_stage is not None


@pytest.mark.parametrize("has_cuda", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_kernels_are_deterministic_on_a_cpu_and_where_the_plan_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, device: str, deterministic: bool, has_cuda: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    is_on_cuda = has_cuda and device != "cpu"

    set_determinism({}, operation(device=device, deterministic=deterministic))

    assert torch.are_deterministic_algorithms_enabled() == (deterministic or not is_on_cuda)
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_the_number_of_threads_is_that_of_the_environment() -> None:
    set_determinism({"OMP_NUM_THREADS": "3"}, operation())
    assert torch.get_num_threads() == 3

    set_determinism({"OMP_NUM_THREADS": "many"}, operation())
    assert torch.get_num_threads() == 3


def test_the_workspace_of_cublas_is_fixed_where_bits_have_to_be_equal() -> None:
    env = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}

    fix_workspace(operation(), env)
    assert env == {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}

    fix_workspace(operation(deterministic=True), env)
    assert env == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def test_the_workspace_is_fixed_without_torch() -> None:
    program = (
        "import sys; import trainer_core.process.cublas; assert 'torch' not in sys.modules, sys"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


def test_a_run_says_what_a_resume_is_worth() -> None:
    said = {}
    for exact in (True, False):
        torch.use_deterministic_algorithms(exact)
        assert resume_promise(torch.device("cpu")) == ()
        (said[exact],) = resume_promise(torch.device("cuda"))

    assert said[True].endswith("equals an unbroken run bit for bit")
    assert said[False].endswith("but not bit for bit")


def test_on_a_cpu_bits_depend_on_threads_and_versions_alone() -> None:
    assert environment_fingerprint(torch.device("cpu")).keys() == {
        "threads",
        "torch",
        "cpu_capability",
    }


def test_a_resume_says_what_is_not_as_it_was() -> None:
    cpu: dict[str, JsonValue] = {"threads": 2, "torch": "2.11.0"}
    on_card = {**cpu, "card": "NVIDIA H200", "deterministic": False}

    assert list(environment_changes({**on_card, "loss": 0.5}, on_card)) == []
    assert list(environment_changes(on_card, {**on_card, "threads": 3, "deterministic": True})) == [
        "The run resumes with threads 3, not 2.",
        "The run resumes with deterministic True, not False.",
    ]
    assert list(environment_changes(cpu, on_card)) == [
        "The run resumes with card NVIDIA H200; the checkpoint names none.",
        "The run resumes with deterministic False; the checkpoint names none.",
    ]
    assert list(environment_changes(on_card, cpu)) == [
        "The run resumes on a CPU, not with card NVIDIA H200."
    ]
    two = {**cpu, "ranks": 2}  # a sum over ranks is rounded by their number
    assert list(environment_changes(cpu, two)) == ["The run resumes with ranks 2, not 1."]
    assert list(environment_changes(two, cpu)) == ["The run resumes with ranks 1, not 2."]
    assert list(environment_changes(two, two)) == []
