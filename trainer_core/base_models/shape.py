"""The shape of a base model without its weights: enough to check a run and count its memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, assert_never

from trainer_core.base_models.describe import DESCRIPTION_NAME, BaseModel, read_base_model
from trainer_core.base_models.known import PUBLISHED, PartConfigs
from trainer_core.base_models.layout import read_config, transformer_config
from trainer_core.base_models.part_sizes import (
    text_encoder_size,
    transformer_tensors,
    vae_parameters,
)
from trainer_core.base_models.resolve import (
    HubName,
    Known,
    Listed,
    LocalFolder,
    Meaning,
    NoModel,
    NotFound,
)
from trainer_core.config.plan.shapes import hidream_linears, max_area_px
from trainer_core.errors import BaseModelError

_MALFORMED: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""Raised by counting if a configuration belongs to another kind of model."""
_ENCODERS: Final = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_NOTHING: Final = PartConfigs(transformer={}, text_encoders=(None,) * 4, vae=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseShape:
    """A base model, known without its weights."""

    model: BaseModel
    """Its digest is empty if the weights are not on this machine or were never hashed."""
    parts: PartConfigs
    warning: str | None = None
    """Says what is assumed, or why there is no digest."""


def shape_of(meaning: Meaning) -> BaseShape:
    """The shape of the model that ``resolve`` found; reads only small files.

    Raises BaseModelError if there is no such base model, or its folder holds another kind of model.
    """
    match meaning:
        case Listed(model):
            check_transformer(model.transformer_config, model.folder)
            return BaseShape(model=model, parts=_parts_in(model.folder, model.transformer_config))
        case LocalFolder(name, folder):
            return _in_folder(name, folder)
        case Known(name, parts):
            warning = f"{name} is not on this machine: its built-in shape is used."
            return BaseShape(model=parts.as_base(name), parts=parts, warning=warning)
        case HubName(name, tried):
            places = ", ".join(str(place) for place in tried)
            warning = (
                f"{name} is neither a known base model nor a folder of one (tried: {places}). "
                "It is assumed to be on the Hugging Face Hub and to have the shape of HiDream-I1."
            )
            return BaseShape(model=PUBLISHED.as_base(name), parts=PUBLISHED, warning=warning)
        case NoModel() | NotFound():
            raise meaning.error()
    assert_never(meaning)


def published_shape(name: str) -> BaseShape:
    """HiDream-I1's shape, used for a model that cannot be read so that other checks still run."""
    return BaseShape(model=PUBLISHED.as_base(name), parts=PUBLISHED)


def check_transformer(config: Mapping[str, Any], folder: Path) -> None:
    """Raise BaseModelError if ``config`` is not the configuration of a HiDream transformer.

    Args:
        config: ``transformer/config.json`` of the base model.
        folder: the base model's folder, for the message.
    """
    try:
        hidream_linears(config)
        transformer_tensors(config)
        max_area_px(config)
    except _MALFORMED as error:
        file = folder / "transformer" / "config.json"
        raise BaseModelError(
            f"{file} is not the configuration of a HiDream-I1 transformer ({error})"
        ) from error


def _in_folder(name: str, folder: Path) -> BaseShape:
    is_described = (folder / DESCRIPTION_NAME).is_file()
    digest = read_base_model(folder).digest if is_described else ""
    config = transformer_config(folder)
    check_transformer(config, folder)
    missing = f"{folder} has no {DESCRIPTION_NAME} yet, so the plan's digest is not known."
    return BaseShape(
        model=BaseModel(name=name, folder=folder, digest=digest, transformer_config=config),
        parts=_parts_in(folder, config),
        warning=None if digest else missing,
    )


def _parts_in(folder: Path, transformer: Mapping[str, Any]) -> PartConfigs:
    """Configurations of the parts in a folder.

    For a missing part the published configuration is used if the transformer has the published
    shape.
    """
    is_published = all(
        transformer.get(key) == PUBLISHED.transformer[key]
        for key in ("num_attention_heads", "attention_head_dim", "caption_channels", "num_layers")
    )
    usual = PUBLISHED if is_published else _NOTHING
    encoders = [
        _part(folder / part, partial(text_encoder_size, number)) or known
        for number, (part, known) in enumerate(
            zip(_ENCODERS, usual.text_encoders, strict=True), start=1
        )
    ]
    vae = _part(folder / "vae", vae_parameters) or usual.vae
    return PartConfigs(transformer=transformer, text_encoders=tuple(encoders), vae=vae)


def _part(folder: Path, count: Callable[[Mapping[str, Any]], object]) -> Mapping[str, Any] | None:
    """The configuration in a folder; None if it is missing or malformed."""
    try:
        config = read_config(folder / "config.json")
        count(config)
    except (BaseModelError, *_MALFORMED):
        return None
    return config
