"""The further adapter that pictures show beside what a run trains. It is never trained."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pydantic import JsonValue

from trainer_core.config.plan import Pictures
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.engine.state import Run, TrainingState
from trainer_core.export.adapter_tensors import read_tensors
from trainer_core.export.start_file import find_start
from trainer_core.painting.attach import laid_over


def read_picture_adapter(run: Run, state: TrainingState) -> None:
    """Read it before this process trains, so that later pictures need its file no more.

    Raises AdapterFileError where it has gone since the run was planned, or cannot be read.
    """
    if run.job.picture_adapter is None:
        return
    found = find_start(Path(run.job.picture_adapter))
    assert found.path is not None
    linears = hidream_linears(run.loaded.network.transformer.config)
    state.pictures.adapter = read_tensors(found.path, linears, found.state).modules
    state.pictures.adapter_sha256 = found.sha256


def laid_over_pictures(run: Run, state: TrainingState) -> AbstractContextManager[None]:
    """Inside, the network computes with it, where there is one."""
    pictures, modules = run.plan.operation.pictures, state.pictures.adapter
    if modules is None:
        return nullcontext()
    assert pictures is not None
    assert pictures.adapter is not None
    return laid_over(run.loaded.network.transformer, modules, pictures.adapter.strength)


def further_facts(pictures: Pictures, state: TrainingState) -> dict[str, JsonValue]:
    """What a picture's file says of it."""
    if pictures.adapter is None or state.pictures.adapter is None:
        return {}
    return {
        "further_adapter_sha256": state.pictures.adapter_sha256,
        "further_strength": pictures.adapter.strength,
    }
