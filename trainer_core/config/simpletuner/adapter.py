"""Options that choose the adapter: LoRA, LoKr, or none where all weights are trained."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.known import PUBLISHED
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.config.simpletuner.lokr import lokr_of
from trainer_core.config.simpletuner.lora import lora_of, tell_idle_lora
from trainer_core.config.simpletuner.model import MODEL_TYPE, is_full_rank
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.start import start_name_of
from trainer_core.config.simpletuner.verdicts import Option, Table

ADAPTER: Final = Table()

_TYPE: Final[Option[Literal["standard", "lycoris"]]] = ADAPTER.choice(
    "lora_type",
    Literal["standard", "lycoris"],
    "standard",
    "standard is LoRA; lycoris needs a LyCORIS config.",
)
_LYCORIS_CONFIG: Final = ADAPTER.path(
    "lycoris_config", "Path of the LyCORIS config, in a local run."
)
_NORM: Final[Option[float | None]] = ADAPTER.number(
    "init_lokr_norm", None, "Start LoKr near the base weights' statistics, at this scale.", above=0
)


def adapter_of(
    config: Options, lycoris_config: Mapping[str, JsonValue] | None, base: BaseModel | None
) -> LokrAdapter | LoraAdapter | None:
    """The adapter; None where all weights are trained, or where a problem was found.

    ``base``: None where the base model has a problem. The adapter is then checked against the
    published model.
    """
    if is_full_rank(config):
        _report_idle_lokr(config, lycoris_config, "model_type full")
        config.idle("with model_type full", _TYPE)
        tell_idle_lora(config, "with model_type full")
        return None
    linears = hidream_linears(PUBLISHED.transformer if base is None else base.transformer_config)
    findings, source = config.findings, config.source
    if config.is_wrong(_TYPE):
        if lycoris_config is not None:
            lokr_of(lycoris_config, linears, None, findings, source)
        return None
    if config[_TYPE] == "standard":
        if config[MODEL_TYPE] is None:
            lora_of(config, linears)
            return None
        by_default = "" if config.given(_TYPE) else " (the default)"
        _report_idle_lokr(config, lycoris_config, f"lora_type standard{by_default}")
        return lora_of(config, linears)
    tell_idle_lora(config, "with lora_type lycoris")
    if lycoris_config is None:
        at = config.at(_LYCORIS_CONFIG) if source == "local" else "/lycoris_config"
        findings.problem(at, "missing", "lora_type lycoris needs a LyCORIS config.")
        return None
    norm, norm_pointer = config[_NORM], config.at(_NORM)
    if start_name_of(config) is not None:
        config.idle("with init_lora", _NORM)
        norm = None
    return lokr_of(lycoris_config, linears, norm, findings, source, norm_pointer=norm_pointer)


def _report_idle_lokr(
    config: Options, lycoris_config: Mapping[str, JsonValue] | None, with_what: str
) -> None:
    """Tell which options of LoKr have no effect, where there is no LoKr."""
    config.idle(f"with {with_what}", _NORM)
    if lycoris_config is not None or config.given(_LYCORIS_CONFIG):
        way_out = "; lora_type lycoris uses it" if config[MODEL_TYPE] == "lora" else ""
        message = f"has no effect with {with_what}{way_out}."
        config.notice("no_effect", _LYCORIS_CONFIG, message)
