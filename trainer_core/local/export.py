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
from trainer_core.checkpoint.folders import (
    has_state,
    is_result,
    read_manifest,
    step_in,
    stored_checkpoints,
)
from trainer_core.checkpoint.layout import MANIFEST_NAME, checkpoint_name, is_state_name
from trainer_core.checkpoint.opening import (
    CHECKPOINTS,
    OpenCheckpoint,
    holds_checkpoints,
    is_checkpoint,
    open_checkpoint,
)
from trainer_core.config.plan.shapes import hidream_linears
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
from trainer_core.paths import find_folder, is_file, is_folder
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
        place: a checkpoint or its state file, or a folder with checkpoints; see
            ``open_checkpoint``.
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
        BaseModelError: the base model's name is not known, or ``base`` is another one than the
            checkpoint names; or, for full rank, its configuration is
            not on this machine.
    """
    place = _folder_of(place)
    if output is not None:
        _check_new(output, overwrite=overwrite)
    _check_place(place)
    if output is not None and _is_full_rank(place):
        _check_is_folder(output)  # before gigabytes are read
    with open_checkpoint(place, step, reporter) as checkpoint:
        _report_damaged(checkpoint, reporter)
        trained = trained_in(checkpoint, weights, reporter)
        name = _base_name(checkpoint, trained) if base is None else _named(base, trained, env)
        origin = Origin(base_model=name, step=trained.step, weights=trained.weights)
        suffix = "" if trained.adapter is None else ADAPTER_SUFFIX
        path = output or Path(_name_of(trained) + suffix)
        _check_new(path, overwrite=overwrite)
        if trained.adapter is None:
            _check_is_folder(path)
            config = _config_of(trained, base, env)
            with _read_from(checkpoint), folder_at_once(path) as draft:
                write_full_rank(
                    draft / TRANSFORMER, config, trained.parameters, origin, trained.file_type
                )
        else:
            with _read_from(checkpoint):
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
    place = _folder_of(place)
    if not (is_file(place) or is_folder(place)):
        raise AdapterFileError(
            f"there is no {place}: name an adapter file (.safetensors), the folder of a result, a "
            "checkpoint, or a run's output folder"
        )
    if _is_adapter_alone(place) or not (is_checkpoint(place) or holds_checkpoints(place)):
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
        shown = f"adapter: {checkpoint.folder.name}, {WEIGHTS_IN_WORDS[trained.weights]}"
        is_ended = is_file(place / RESULT / ADAPTER_NAME)
        reporter.log(f"{shown} (the result is {place / RESULT})" if is_ended else shown)
        yield (Path(folder) / ADAPTER_NAME).rename(
            Path(folder) / (_name_of(trained) + ADAPTER_SUFFIX)
        )


def _folder_of(place: Path) -> Path:
    """The folder of the checkpoint whose state file is named; any other place as it is."""
    folder = place.parent
    is_state = is_state_name(place.name) and is_file(place)
    is_own = step_in(folder.name) is not None or is_file(folder / MANIFEST_NAME)
    return folder if is_state and is_own else place


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
    if is_file(place) or is_file(place / ADAPTER_NAME):
        raise CheckpointError(
            f"{place} is no checkpoint: an adapter file is used as it is, and there is nothing to "
            "export"
        )
    raise CheckpointError(
        f"{place} has no checkpoints: name a checkpoint, or a run's output folder with one"
    )


def _is_adapter_alone(folder: Path) -> bool:
    """Whether an adapter was put into a folder by itself, which may be named as a checkpoint."""
    if not is_file(folder / ADAPTER_NAME) or is_file(folder / MANIFEST_NAME):
        return False
    return not has_state(folder)


def _adapter_in(folder: Path) -> Path:
    for file in (folder / ADAPTER_NAME, folder / RESULT / ADAPTER_NAME):
        if file.is_file():
            return file
    for each in (folder, folder / RESULT):
        if is_file(each / TRANSFORMER / "config.json"):
            raise AdapterFileError(
                f"{each} has a transformer with all weights, and no adapter: give it to --base"
            )
    raise AdapterFileError(f"{folder} holds neither a checkpoint nor {ADAPTER_NAME}")


def _check_new(output: Path, *, overwrite: bool) -> None:
    if _is_name_of_file(output):
        check_new_file(output, overwrite=overwrite)
    else:
        check_new_folder(output)


def _is_name_of_file(output: Path) -> bool:
    return output.suffix.lower() == ADAPTER_SUFFIX


def _is_full_rank(place: Path) -> bool:
    """Whether it is known so far that the place has full-rank checkpoints, which are not read."""
    whole = stored_checkpoints(place / CHECKPOINTS).whole or stored_checkpoints(place).whole
    try:
        identity = read_manifest(place if is_checkpoint(place) else whole[-1]).identity
    except (CheckpointError, IndexError):
        return False
    return identity is not None and identity.get("adapter", ...) is None


def _check_is_folder(output: Path) -> None:
    if _is_name_of_file(output):
        raise OutputError(
            f"{output} is the name of a file: all weights of full rank are several files, so "
            "--output has to name a new folder"
        )


def _report_damaged(checkpoint: OpenCheckpoint, reporter: Reporter) -> None:
    for why in checkpoint.damaged:
        reporter.log(f"warning: {why}. Step {checkpoint.manifest.step} is taken instead.")


def _named(base: str, trained: Trained, env: Mapping[str, str]) -> str:
    """The name of the base model that the user gives; raises BaseModelError for another one.

    A folder may be the same model in another place: ``_config_of`` checks whether it fits.
    """
    name = name_of_base(base, env, [Path.cwd()])
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BaseModelError(f"the name of {name!r} is not UTF-8: rename the folder") from error
    if trained.base_name in (None, name) or find_folder(base, [Path.cwd()]) is not None:
        return name
    raise BaseModelError(
        f"--base is {name}, and the checkpoint was trained from {trained.base_name}: name that one "
        "or its folder, or leave --base out"
    )


def _base_name(checkpoint: OpenCheckpoint, trained: Trained) -> str:
    if trained.base_name is None:
        raise BaseModelError(
            f"{checkpoint.folder} does not say which base model it was trained from, and no "
            "job.json of its run is beside it: name the base model with --base"
        )
    return trained.base_name


def _config_of(trained: Trained, base: str | None, env: Mapping[str, str]) -> Mapping[str, Any]:
    if base is not None:
        config = find_base(base, env=env, folders=[Path.cwd()]).transformer_config
        _check_fits(base, config, trained)
        return config
    for folder in local_base(trained.base_name, trained.base_digest, trained.job, env):
        with contextlib.suppress(BaseModelError):
            return transformer_config(folder)
    raise BaseModelError(
        f"the base model {trained.base_name} is not on this machine, and the configuration of its "
        "transformer is needed: name the base model, or its folder, with --base"
    )


def _check_fits(base: str, config: Mapping[str, Any], trained: Trained) -> None:
    """Raise BaseModelError where the transformer of ``base`` has other weights than the state."""
    shapes = trained.parameters.shapes
    for linear in hidream_linears(config):
        weight = f"{linear.path}.weight"
        if shapes.get(weight) != (linear.out_features, linear.in_features):
            raise BaseModelError(
                f"--base {base} does not fit the checkpoint: {weight} has another shape. Name the "
                "base model that it was trained from"
            )


@contextlib.contextmanager
def _read_from(checkpoint: OpenCheckpoint) -> Iterator[None]:
    """Raises CheckpointError where the state is not that of the run in the manifest."""
    try:
        yield
    except NOT_A_STATE as error:
        raise not_the_state(checkpoint, error) from error


def _write_adapter(path: Path, adapter: Adapter, trained: Trained, origin: Origin) -> None:
    is_one_file = _is_name_of_file(path)
    drafted = file_at_once(path, ADAPTER_NAME) if is_one_file else folder_at_once(path)
    with drafted as draft:
        draft.mkdir(parents=True, exist_ok=True)
        write_adapter(draft, adapter, trained.parameters, origin)
