"""Fault points act in tests only, where and when they are asked to."""

from pathlib import Path

import pytest

from trainer_core.errors import InjectedFaultError
from trainer_core.faultpoints import ALL_FAULT_POINTS, fault_point


@pytest.fixture(autouse=True)
def _test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.delenv("FAULT_AT", raising=False)
    monkeypatch.delenv("FAULT_ONCE", raising=False)


def test_nothing_happens_without_a_request() -> None:
    for name in ALL_FAULT_POINTS:
        fault_point(name)


def test_an_unknown_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="ALL_FAULT_POINTS"):
        fault_point("nowhere")


def test_only_the_named_place_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT_AT", "train.after_step=raise")

    fault_point("train.before_step")
    with pytest.raises(InjectedFaultError, match=r"train\.after_step"):
        fault_point("train.after_step")


def test_a_fault_can_be_had_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAULT_AT", "train.after_step=raise")
    monkeypatch.setenv("FAULT_ONCE", str(tmp_path / "happened"))

    with pytest.raises(InjectedFaultError):
        fault_point("train.after_step")
    fault_point("train.after_step")


def test_outside_of_tests_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT_AT", "train.after_step=raise")
    monkeypatch.setenv("REVERIE_ENV", "production")

    with pytest.raises(PermissionError):
        fault_point("train.after_step")
