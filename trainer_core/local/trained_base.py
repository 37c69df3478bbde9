"""The base model of a finished run, found again on this machine. Uses no network."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from trainer_core.base_models.describe import (
    BaseModel,
    home_of,
    listed_base_models,
    read_base_model,
)
from trainer_core.base_models.known import TEST_MODELS
from trainer_core.base_models.layout import FOURTH, OTHERS, WEIGHTS, transformer_config
from trainer_core.base_models.obtain import find_base
from trainer_core.base_models.resolve import (
    HubName,
    Known,
    Listed,
    LocalFolder,
    NoModel,
    NotFound,
    resolve,
)
from trainer_core.checkpoint.opening import holds_checkpoints, is_checkpoint
from trainer_core.data.formats import ADAPTER_SUFFIX
from trainer_core.errors import BaseModelError
from trainer_core.export.origin import ADAPTER_NAME, BASE_MODEL
from trainer_core.export.transformer_folder import NAME, TRANSFORMER
from trainer_core.local.folder import JOB_NAME, RESULT
from trainer_core.paths import is_file, is_folder, places_of
from trainer_core.process.job import BadJobError, Job, read_job
from trainer_core.progress import SilentReporter
from trainer_core.weights.entries import BadHeaderError, read_entries

PARTS: Final = (*(part for part in WEIGHTS if part != TRANSFORMER), *OTHERS, *FOURTH)
"""The parts of a base model beside its transformer."""
_MAX_HEADER_BYTES: Final = 32 << 20
_OF_INPUTS: Final = ("in_channels", "caption_channels", "text_emb_dim", "llama_layers")
"""What the transformer's configuration says about VAE and text encoders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoneTransformer:
    """The folder of a transformer without the other parts: a full-rank result, or an export."""

    folder: Path
    """Holds ``transformer``."""
    base_name: str | None
    """Of the base model that it was trained from; None where nothing says it."""
    base_digest: str | None
    job: Job | None
    """The run's, where it is beside the folder."""


def lone_transformer(
    name: str, env: Mapping[str, str], folders: Sequence[Path]
) -> LoneTransformer | None:
    """The transformer without other parts that ``name`` means, if it means one.

    Args:
        name: a folder with ``transformer``, or the output folder of a run that has such a result. A
            name on the operator's list means a whole base model.
        env: REVERIE_MODELS_DIR and REVERIE_HOME are read.
        folders: a relative path is tried from each of these, in order.

    Raises BaseModelError where the place is an adapter, or the folder has checkpoints only.
    """
    if name in listed_base_models(env):
        return None
    for place in places_of(name, folders):
        for folder in (place, place / RESULT):
            is_transformer = is_file(folder / TRANSFORMER / "config.json")
            if is_transformer and not any(is_folder(folder / part) for part in PARTS):
                return _described(folder)
        if not is_folder(place / TRANSFORMER):
            _refuse_adapter(place)
        if is_folder(place) and (is_checkpoint(place) or holds_checkpoints(place)):
            raise BaseModelError(
                f"{place} has checkpoints and no full-rank result: write the transformer of a "
                "full-rank checkpoint with `reverie export` for --base; an adapter is for --adapter"
            )
    return None


def _refuse_adapter(place: Path) -> None:
    """Raise BaseModelError where a place is an adapter file, or a folder of a run with one."""
    of_result = place if is_file(place / ADAPTER_NAME) else place / RESULT
    is_adapter_file = place.suffix.lower() == ADAPTER_SUFFIX and is_file(place)
    if is_adapter_file or is_file(of_result / ADAPTER_NAME):
        shown = place if is_adapter_file else of_result
        raise BaseModelError(
            f"{shown} is an adapter, not a base model: give it to --adapter, and to --base what it "
            "was trained from"
        )


def local_base(
    name: str | None, digest: str | None, job: Job | None, env: Mapping[str, str]
) -> Iterator[Path]:
    """The folders on this machine that may be the base model, the likeliest first.

    Args:
        name: of the base model.
        digest: of the base model. A folder with the name and another digest comes last.
        job: of the run that was trained from it.
        env: REVERIE_MODELS_DIR and REVERIE_HOME are read.
    """
    if job is not None:
        base = job.plan.identity.base
        if digest == base.digest or (digest is None and name in (None, base.name)):
            yield Path(job.base_model_dir)
    found = [*listed_base_models(env).values(), *_composed(home_of(env))]
    yield from (model.folder for model in found if model.digest == digest)
    yield from (model.folder for model in found if model.name == name and model.digest != digest)
    if name is not None and name in TEST_MODELS:
        yield find_base(name, env=env, folders=()).obtain(SilentReporter(), None).folder


def parts_of(transformer: LoneTransformer, env: Mapping[str, str]) -> Path:
    """The folder of the base model that the transformer was trained from, with all its parts.

    Raises BaseModelError where it is not on this machine.
    """
    known = (transformer.base_name, transformer.base_digest, transformer.job)
    for folder in local_base(*known, env):
        if all((folder / part).is_dir() for part in PARTS):
            return folder
    raise BaseModelError(
        f"{transformer.folder} has a transformer only, and {_base_text(transformer.base_name)} is "
        "not on this machine: name the base model that has the other parts, or its folder, with "
        "--parts-from"
    )


def check_parts(transformer: Path, parts: Path) -> None:
    """Raise BaseModelError where the parts of a base model do not fit another one's transformer."""
    ours, theirs = transformer_config(transformer), transformer_config(parts)
    differs = [key for key in _OF_INPUTS if ours.get(key) != theirs.get(key)]
    if differs:
        raise BaseModelError(
            f"the parts in {parts} do not fit the transformer in {transformer}: "
            f"{', '.join(differs)} differ. Name the base model that it was trained from"
        )


def name_of_base(base: str, env: Mapping[str, str], folders: Sequence[Path]) -> str:
    """What a run calls the base model that a command names; raises BaseModelError."""
    meaning = resolve(base, listed_base_models(env), folders)
    match meaning:
        case Listed(model):
            return model.name
        case LocalFolder(_, folder):
            return folder.resolve().name
        case Known(name) | HubName(name):
            return name
        case NoModel() | NotFound():
            raise meaning.error()
    assert_never(meaning)


def _base_text(name: str | None) -> str:
    return "the base model that it was trained from" if name is None else f"its base model {name}"


def _composed(home: Path) -> Iterator[BaseModel]:
    """The base models that were composed from downloaded parts."""
    folder = home / "bases"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            yield read_base_model(path)
        except BaseModelError:
            continue


def _described(folder: Path) -> LoneTransformer:
    """A result says its base model in card.json, an export in the metadata of its weights."""
    name, digest = _in_card(folder)
    try:
        job = read_job(folder.absolute().parent / JOB_NAME)
    except BadJobError:
        job = None
    return LoneTransformer(
        folder=folder,
        base_name=name or _in_metadata(folder / TRANSFORMER),
        base_digest=digest,
        job=job,
    )


def _in_card(folder: Path) -> tuple[str | None, str | None]:
    try:
        base = json.loads((folder / "card.json").read_bytes())["base_model"]
        return str(base["name"]), str(base["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, None


def _in_metadata(folder: Path) -> str | None:
    file = next(iter(sorted(folder.glob(f"{NAME}*.safetensors"))), None)
    try:
        header = None if file is None else read_entries(file, limit_bytes=_MAX_HEADER_BYTES)
    except BadHeaderError:
        return None
    return None if header is None else header.metadata.get(BASE_MODEL)
