"""The shape of a base model, from what is on this machine or known to everybody; never the network.

Its weights are not looked at, so a configuration can be checked where they are not.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from trainer_core.base_models.describe import (
    DESCRIPTION_NAME,
    BaseModel,
    listed_base_models,
    read_base_model,
)
from trainer_core.base_models.known import KNOWN_MODELS, PUBLISHED, KnownModel
from trainer_core.base_models.part_sizes import (
    text_encoder_size,
    transformer_tensors,
    vae_parameters,
)
from trainer_core.config.plan.shapes import hidream_linears, max_area_px
from trainer_core.config.simpletuner.importer import FLAVOURS
from trainer_core.documents import load_document
from trainer_core.errors import BaseModelError, DocumentError
from trainer_core.memory.planner import BaseParts
from trainer_core.paths import is_folder, places_of

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_ODD_CONFIG: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""What comes of counting with a configuration that is none."""
_NOTHING: Final = KnownModel(transformer={}, text_encoders=(None,) * 4, vae=None)
_ENCODERS: Final = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalBases:
    """Base models by name, and what to say of the one that is meant."""

    models: Mapping[str, BaseModel]
    parts: BaseParts
    """Of the one that is meant."""
    warnings: tuple[str, ...]
    is_here: bool
    """Whether its weights are on this machine, so that its digest is known."""


def find_bases(
    config: Mapping[str, Any], *, env: Mapping[str, str], folders: Sequence[Path]
) -> LocalBases:
    """Models of REVERIE_MODELS_DIR (or REVERIE_HOME), a local folder, or a shape that is known.

    Args:
        config: options without leading dashes.
        folders: what a relative path is tried from.

    Raises:
        BaseModelError: the folder that is named, or the list, holds something else.
    """
    listed = listed_base_models(env)
    models = {name: known.as_base(name) for name, known in KNOWN_MODELS.items()} | listed
    name, is_written = _name_in(config)
    if name in listed:
        model = _checked(listed[name])
        return LocalBases(models=models, parts=_parts(model), warnings=(), is_here=True)
    if is_written and (folder := _folder(name, folders)) is not None:
        model = _in_folder(folder, name)
        here = LocalBases(
            models={**models, name: model}, parts=_parts(model), warnings=(), is_here=True
        )
        if model.digest:
            return here
        warning = f"{folder} has no {DESCRIPTION_NAME} yet: the plan's digest is not known."
        return LocalBases(models=here.models, parts=here.parts, warnings=(warning,), is_here=False)
    if name in KNOWN_MODELS:
        warning = f"{name} is not on this machine: the shape that it has everywhere is used."
        return LocalBases(
            models=models, parts=_known(KNOWN_MODELS[name]), warnings=(warning,), is_here=False
        )
    if _HUB_NAME.fullmatch(name):
        tried = ", ".join(str(folder / name) for folder in dict.fromkeys(folders))
        warning = (
            f"{name} is no model that is known here, and no folder of one (tried: {tried}). It is "
            "assumed to be on the Hugging Face Hub and to have the shape of HiDream-I1."
        )
        models = {**models, name: PUBLISHED.as_base(name)}
        return LocalBases(
            models=models, parts=_known(PUBLISHED), warnings=(warning,), is_here=False
        )
    return LocalBases(models=models, parts=_known(PUBLISHED), warnings=(), is_here=False)


def known_bases() -> LocalBases:
    """Only the shapes that are known, where the base model that is meant cannot be read."""
    models = {name: known.as_base(name) for name, known in KNOWN_MODELS.items()}
    return LocalBases(models=models, parts=_known(PUBLISHED), warnings=(), is_here=False)


def _name_in(config: Mapping[str, Any]) -> tuple[str, bool]:
    written = config.get("pretrained_model_name_or_path")
    if isinstance(written, str) and written:
        return written, True
    flavour = config.get("model_flavour")
    return FLAVOURS.get(flavour if isinstance(flavour, str) else "full", FLAVOURS["full"]), False


def _folder(name: str, folders: Sequence[Path]) -> Path | None:
    places = places_of(name, folders)
    return next((place for place in places if is_folder(place / "transformer")), None)


def _in_folder(folder: Path, name: str) -> BaseModel:
    if (folder / DESCRIPTION_NAME).is_file():
        described = read_base_model(folder)
        digest, config = described.digest, described.transformer_config
    else:
        digest, config = "", _read(folder / "transformer" / "config.json")
    model = BaseModel(name=name, folder=folder, digest=digest, transformer_config=config)
    return _checked(model)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        config = load_document(file)
    except DocumentError as error:
        raise BaseModelError(str(error)) from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{file} has to hold an object")
    return config


def _checked(model: BaseModel) -> BaseModel:
    """The same; raises BaseModelError where its configuration is no HiDream transformer's."""
    config = model.transformer_config
    try:
        hidream_linears(config)
        transformer_tensors(config)
        max_area_px(config)
    except _ODD_CONFIG as error:
        file = model.folder / "transformer" / "config.json"
        raise BaseModelError(f"{file} is no HiDream-I1 transformer's ({error})") from error
    return model


def _known(model: KnownModel) -> BaseParts:
    return BaseParts(
        transformer=model.transformer, text_encoders=model.text_encoders, vae=model.vae
    )


def _parts(model: BaseModel) -> BaseParts:
    """From the folders of its parts; a part that is not there is the published one's where the
    transformer is."""
    is_published = all(
        model.transformer_config.get(key) == PUBLISHED.transformer[key]
        for key in ("num_attention_heads", "attention_head_dim", "caption_channels", "num_layers")
    )
    usual = PUBLISHED if is_published else _NOTHING
    encoders = [
        _part(model.folder / part, partial(text_encoder_size, number)) or known
        for number, (part, known) in enumerate(
            zip(_ENCODERS, usual.text_encoders, strict=True), start=1
        )
    ]
    vae = _part(model.folder / "vae", vae_parameters) or usual.vae
    return BaseParts(transformer=model.transformer_config, text_encoders=encoders, vae=vae)


def _part(folder: Path, count: Callable[[Mapping[str, Any]], object]) -> Mapping[str, Any] | None:
    """The configuration in a folder; None where it is missing or cannot be counted with."""
    try:
        config = _read(folder / "config.json")
        count(config)
    except (BaseModelError, *_ODD_CONFIG):
        return None
    return config
