"""Options that name the model family, the base model and what is trained."""

from collections.abc import Mapping
from typing import Final, Literal

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.known import FLAVOURS
from trainer_core.base_models.resolve import Listed, NotFound, resolve
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table

MODEL: Final = Table()
_WHOLE: Final = "Base models come whole, by name, and no other weights are taken."

_FAMILY: Final[Option[str | None]] = MODEL.choice(
    "model_family", {"hidream": "hidream"}, None, "Only hidream is trained here."
)
MODEL_TYPE: Final[Option[Literal["lora", "full"] | None]] = MODEL.choice(
    "model_type", Literal["lora", "full"], None, "lora trains an adapter, full all weights."
)
_FLAVOUR: Final[Option[str]] = MODEL.choice(
    "model_flavour",
    FLAVOURS,
    FLAVOURS["full"],
    "Names the base model, unless pretrained_model_name_or_path does.",
)
_NAME: Final = MODEL.text(
    "pretrained_model_name_or_path",
    None,
    "The name of a base model on the operator's list; in a local run also a folder or a "
    "repository.",
)
_FOURTH_ENCODER: Final = MODEL.text(
    "pretrained_text_encoder_4_model_name_or_path",
    None,
    "Reverie's own: the repository or folder of the fourth text encoder (Llama 3.1 8B Instruct) "
    "in a local run.",
)
MODEL.refused(
    "pretrained_transformer_model_name_or_path "
    "pretrained_vae_model_name_or_path pretrained_t5_model_name_or_path "
    "pretrained_unet_model_name_or_path vae_path variant "
    "assistant_lora_path",
    _WHOLE,
)
MODEL.refused("revision", _WHOLE, "main")
MODEL.refused("pretrained_transformer_subfolder", _WHOLE, "transformer")
MODEL.refused("pretrained_unet_subfolder unet_subfolder", _WHOLE, "unet")
MODEL.no_effect("trust_remote_code", "No code of a model's repository is ever run.")


def is_full_rank(config: Options) -> bool:
    """Whether all weights are trained, not an adapter."""
    return config[MODEL_TYPE] == "full"


def base_name_of(config: Options) -> str:
    """Name, folder or repository of the base model."""
    return config[_NAME] or config[_FLAVOUR]


def base_of(config: Options, base_models: Mapping[str, BaseModel]) -> BaseModel | None:
    """The base model; None, and a problem, where it is not among ``base_models``."""
    for required in (_FAMILY, MODEL_TYPE):
        if config.is_missing(required):
            config.problem(required, "missing", f"{required.name} is missing. {required.reason}")
    is_named = bool(config[_NAME])
    if is_named:
        config.idle("beside pretrained_model_name_or_path", _FLAVOUR)
    name = base_name_of(config)
    option = _NAME if is_named else _FLAVOUR
    meaning = resolve(name, base_models, folders=())
    if isinstance(meaning, Listed):
        return meaning.model
    if isinstance(meaning, NotFound) and meaning.is_path and config.source == "http":
        message = "A path is not taken as a base model; give the name of one on the list."
        config.problem(option, "refused", message)
        return None
    listed = ", ".join(sorted(base_models)) or "nothing"
    message = f"{name} is not on this operator's list of base models, which has {listed}."
    config.problem(option, "bad_value", message)
    return None


def fourth_encoder_of(config: Options) -> str | None:
    """Repository or folder of the fourth text encoder, in a local run."""
    written = config[_FOURTH_ENCODER] or None
    if written is not None and config.source == "http":
        message = "Base models come whole, from the operator's list; leave it out."
        config.problem(_FOURTH_ENCODER, "refused", message)
    return written
