"""What a training process sets for torch is in its environment before torch is imported."""

from pathlib import Path

import pytest

from tests.support import local_runs
from tests.support.jobs import make_job, start_train

ROOT = Path(__file__).parents[2]
VARIABLES = ("PYTORCH_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture
def python_path(tmp_path: Path) -> str:
    """With a file in torch's place that writes the variables down, and ends the process."""
    lines = [
        "import json, os, pathlib",
        f"found = [os.environ.get(name) for name in {VARIABLES}]",
        f"pathlib.Path({str(tmp_path / 'found')!r}).write_text(repr(found))",
        "os._exit(0)",
    ]
    (tmp_path / "instead").mkdir()
    (tmp_path / "instead" / "torch.py").write_text("\n".join(lines))
    return f"{tmp_path / 'instead'}:{ROOT}"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)


def wanted(*, deterministic: bool) -> str:
    return repr(["expandable_segments:True", ":4096:8" if deterministic else None])


@pytest.mark.parametrize("deterministic", [False, True])
def test_of_the_service(
    tiny_folder: Path, tmp_path: Path, python_path: str, deterministic: bool
) -> None:
    job = make_job(
        tiny_folder, tmp_path / "shards", tmp_path, edge_px=64, count=2, device="auto",
        deterministic=deterministic,
    )  # fmt: skip

    process = start_train(job, tmp_path, {"PYTHONPATH": python_path})

    assert process.wait(timeout=60) == 0
    assert (tmp_path / "found").read_text() == wanted(deterministic=deterministic)


@pytest.mark.parametrize("deterministic", [False, True])
def test_of_a_local_run(
    tiny_models_dir: Path, tmp_path: Path, python_path: str, deterministic: bool
) -> None:
    options = {"device": "auto", "deterministic": deterministic}
    config = local_runs.make_project(tmp_path, **options)

    status, _ = local_runs.train(
        config, tmp_path / "output", tiny_models_dir, PYTHONPATH=python_path
    )

    assert status == 0, local_runs.log_of(tmp_path / "output")
    assert (tmp_path / "found").read_text() == wanted(deterministic=deterministic)
