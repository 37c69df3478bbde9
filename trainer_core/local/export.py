"""Write what a run would have written as its result, had it ended at a checkpoint.

Needs no GPU and no torch, and changes nothing in the folders of the run, which may be training.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer_core.base_models.layout import transformer_config
from trainer_core.base_models.obtain import find_base
from trainer_core.checkpoint.folders import is_result
from trainer_core.checkpoint.layout import checkpoint_name
from trainer_core.checkpoint.opening import (
    OpenCheckpoint,
    holds_checkpoints,
    is_checkpoint,
    open_checkpoint,
)
from trainer_core.data.formats import ADAPTER_SUFFIX
from trainer_core.disk import writing
from trainer_core.errors import AdapterFileError, BaseModelError, CheckpointError, OutputError
from trainer_core.export.drafts import (
    check_new_file,
    check_new_folder,
    file_at_once,
    folder_at_once,
)
from trainer_core.export.origin import ADAPTER_NAME, Origin, Weights
from trainer_core.export.parameters_in_state import NOT_A_STATE
from trainer_core.export.transformer_folder import TRANSFORMER, write_full_rank
from trainer_core.export.write_adapter import write_adapter
from trainer_core.local.folder import RESULT
from trainer_core.local.trained import Adapter, Trained, not_the_state, trained_in
from trainer_core.local.trained_base import local_base, name_of_base
from trainer_core.paths import is_file, is_folder
from trainer_core.progress import Reporter

WEIGHTS_IN_WORDS: Final[Mapping[Weights, str]] = {
    "ema": "running mean (EMA)",
    "live": "live weights",
}
_ANY_BASE: Final = "unnamed"
"""In a file that nobody keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    step: int
    weights: Weights


def export_checkpoint(
    place: Path,
    *,
    step: int | None,
    weights: Weights | None,
    base: str | None,
    output: Path | None,
    overwrite: bool,
    env: Mapping[str, str],
    reporter: Reporter,
) -> Exported:
    """Write the weights of a checkpoint as the result of its run has them, byte for byte.

    Args:
        place: a checkpoint, or a folder with checkpoints; see ``open_checkpoint``.
        step: of the checkpoint in the folder; None: the newest whole one.
        weights: None: those that the result has, the running mean (EMA) where the run keeps one.
        base: the name or folder of the base model; None: the one that the checkpoint, or the job
            beside it, names.
        output: a file for an adapter, or a new folder, laid out as a result; None: in the working
            folder, named by step and weights.
        overwrite: an existing file is replaced.
        env: REVERIE_MODELS_DIR and REVERIE_HOME are read.
        reporter: gets progress, and a line for each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: as ``open_checkpoint``, or it has not these weights.
        OutputError: ``output`` exists, or is a file's name where a folder is written.
        BaseModelError: the base model's name is not known; or, for full rank, its configuration is
            not on this machine.
    """
    if output is not None:
        _check_new(output, overwrite=overwrite)
    _check_place(place)
    with open_checkpoint(place, step, reporter) as checkpoint:
        _report_damaged(checkpoint, reporter)
        trained = trained_in(checkpoint, weights, reporter)
        name = _base_name(checkpoint, trained) if base is None else _named(base, env)
        origin = Origin(base_model=name, step=trained.step, weights=trained.weights)
        suffix = "" if trained.adapter is None else ADAPTER_SUFFIX
        path = output or Path(_name_of(trained) + suffix)
        _check_new(path, overwrite=overwrite)
        with _read_from(checkpoint):
            if trained.adapter is None:
                _write_transformer(path, _config_of(trained, base, env), trained, origin)
            else:
                _write_adapter(path, trained.adapter, trained, origin)
    return Exported(path=path, step=origin.step, weights=origin.weights)


@contextlib.contextmanager
def adapter_at(place: Path, weights: Weights | None, reporter: Reporter) -> Iterator[Path]:
    """The adapter file that a path means; that of a checkpoint is made and deleted afterwards.

    Args:
        place: an adapter file, a result's folder, or what ``export_checkpoint`` takes.
        weights: of the checkpoint; None: those that a result has.
        reporter: as for ``export_checkpoint``.

    Raises:
        AdapterFileError: there is no such place, ``weights`` is given for a file, or the checkpoint
            is of full rank.
        CheckpointError: as ``export_checkpoint``.
    """
    if not (is_file(place) or is_folder(place)):
        raise AdapterFileError(
            f"there is no {place}: name an adapter file (.safetensors), the folder of a result, a "
            "checkpoint, or a run's output folder"
        )
    if not (is_checkpoint(place) or holds_checkpoints(place)):
        if weights is not None:
            raise AdapterFileError(
                f"{place} is no checkpoint: --weights chooses between the weights of one"
            )
        yield _adapter_in(place) if place.is_dir() else place
        return
    with (
        tempfile.TemporaryDirectory(prefix="reverie-") as folder,
        open_checkpoint(place, None, reporter) as checkpoint,
    ):
        _report_damaged(checkpoint, reporter)
        trained = trained_in(checkpoint, weights, reporter)
        if trained.adapter is None:
            raise AdapterFileError(
                f"{checkpoint.folder} is a checkpoint of full-rank training: write its transformer "
                "with `reverie export`, and give that to --base"
            )
        name = trained.base_name or _ANY_BASE
        origin = Origin(base_model=name, step=trained.step, weights=trained.weights)
        with _read_from(checkpoint), writing(Path(folder)):
            write_adapter(Path(folder), trained.adapter, trained.parameters, origin)
        reporter.log(f"adapter: step {trained.step}, {WEIGHTS_IN_WORDS[trained.weights]}")
        yield (Path(folder) / ADAPTER_NAME).rename(
            Path(folder) / (_name_of(trained) + ADAPTER_SUFFIX)
        )


def _name_of(trained: Trained) -> str:
    return f"{checkpoint_name(trained.step)}-{trained.weights}"


def _check_place(place: Path) -> None:
    if is_checkpoint(place) or holds_checkpoints(place):
        return
    if not place.exists():
        raise CheckpointError(f"there is no {place}: name a checkpoint, or a run's output folder")
    if is_result(place):
        raise CheckpointError(
            f"{place} is the result of a run: use it as it is, there is nothing to export"
        )
    raise CheckpointError(
        f"{place} has no checkpoints: name a checkpoint, or a run's output folder with one"
    )


def _adapter_in(folder: Path) -> Path:
    for file in (folder / ADAPTER_NAME, folder / RESULT / ADAPTER_NAME):
        if file.is_file():
            return file
    raise AdapterFileError(f"{folder} holds neither a checkpoint nor {ADAPTER_NAME}")


def _check_new(output: Path, *, overwrite: bool) -> None:
    if output.suffix == ADAPTER_SUFFIX:
        check_new_file(output, overwrite=overwrite)
    else:
        check_new_folder(output)


def _report_damaged(checkpoint: OpenCheckpoint, reporter: Reporter) -> None:
    for why in checkpoint.damaged:
        reporter.log(f"warning: {why}. Step {checkpoint.manifest.step} is taken instead.")


def _named(base: str, env: Mapping[str, str]) -> str:
    return name_of_base(base, env, [Path.cwd()])


def _base_name(checkpoint: OpenCheckpoint, trained: Trained) -> str:
    if trained.base_name is None:
        raise BaseModelError(
            f"{checkpoint.folder} does not say which base model it was trained from, and no "
            "job.json of its run is beside it: name the base model with --base"
        )
    return trained.base_name


def _config_of(trained: Trained, base: str | None, env: Mapping[str, str]) -> Mapping[str, Any]:
    if base is not None:
        return find_base(base, env=env, folders=[Path.cwd()]).transformer_config
    for folder in local_base(trained.base_name, trained.base_digest, trained.job, env):
        with contextlib.suppress(BaseModelError):
            return transformer_config(folder)
    raise BaseModelError(
        f"the base model {trained.base_name} is not on this machine, and the configuration of its "
        "transformer is needed: name the base model, or its folder, with --base"
    )


@contextlib.contextmanager
def _read_from(checkpoint: OpenCheckpoint) -> Iterator[None]:
    """Raises CheckpointError where the state is not that of the run in the manifest."""
    try:
        yield
    except NOT_A_STATE as error:
        raise not_the_state(checkpoint, error) from error


def _write_adapter(path: Path, adapter: Adapter, trained: Trained, origin: Origin) -> None:
    writing = (
        folder_at_once(path) if path.suffix != ADAPTER_SUFFIX else file_at_once(path, ADAPTER_NAME)
    )
    with writing as draft:
        draft.mkdir(parents=True, exist_ok=True)
        write_adapter(draft, adapter, trained.parameters, origin)


def _write_transformer(
    path: Path, config: Mapping[str, Any], trained: Trained, origin: Origin
) -> None:
    if path.suffix == ADAPTER_SUFFIX:
        raise OutputError(
            f"{path} is the name of a file: all weights of full rank are several files, so "
            "--output has to name a new folder"
        )
    with folder_at_once(path) as draft:
        write_full_rank(draft / TRANSFORMER, config, trained.parameters, origin)
