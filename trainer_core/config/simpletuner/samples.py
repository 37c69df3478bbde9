"""Options of the sample image in the result, and of validation and evaluation during the run."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.placeholders import unfilled_tokens
from trainer_core.config.simpletuner.reading import Findings, Options, escaped
from trainer_core.config.simpletuner.verdicts import Option, Table

SAMPLES: Final = Table()

_PROMPT: Final = SAMPLES.text("validation_prompt", "", "Prompt of the sample image in the result.")
_NEGATIVE: Final = SAMPLES.text(
    "validation_negative_prompt", "", "Negative prompt of the sample image."
)
_STEPS: Final = SAMPLES.integer(
    "validation_num_inference_steps", 30, "Steps of the sample image.", at_least=1, at_most=1000
)
_GUIDANCE: Final = SAMPLES.number(
    "validation_guidance", 5.0, "Guidance of the sample image.", at_least=0
)
_SIZE: Final = SAMPLES.text(
    "validation_resolution", "1024", "Size of the sample image: an edge, or WIDTHxHEIGHT."
)
_SEED: Final = SAMPLES.integer("validation_seed", 42, "Seed of the sample image.", at_least=0)
_LIBRARY: Final = SAMPLES.path(
    "user_prompt_library",
    "Path of prompts by nickname, in a local run. The first one is the sample's where "
    "validation_prompt is not given.",
)
_NO_PICTURES: Final = "no pictures are made while it trains; the result has one."
_NO_EVALUATION: Final = "nothing is evaluated while it trains, but the fixed validation loss."
SAMPLES.unlike(_SIZE, "The size is taken as it is; SimpleTuner always paints about 1024² pixels.")
SAMPLES.differs(
    "validation_step_interval validation_steps validation_epoch_interval "
    "validation_prompt_library validation_on_startup validation_using_datasets",
    _NO_PICTURES,
    0,
)
SAMPLES.differs("eval_steps_interval eval_epoch_interval", _NO_EVALUATION, 0)
SAMPLES.differs("evaluation_type", _NO_EVALUATION, "none")
SAMPLES.differs("validation_external_script", _NO_PICTURES)
SAMPLES.differs("validation_method", _NO_PICTURES, "simpletuner-local")
SAMPLES.no_effect(
    "eval_timesteps num_eval_images eval_dataset_id eval_dataset_pooling eval_loss_disable "
    "pretrained_evaluation_model_name_or_path",
    _NO_EVALUATION,
)
SAMPLES.no_effect(
    "disable_benchmark validation_preview validation_preview_steps validation_randomize "
    "validation_disable_unconditional validation_disable num_validation_images "
    "validation_torch_compile_fullgraph validate_after_step validate_after_epoch "
    "validation_guidance_rescale validation_guidance_real validation_no_cfg_until_timestep "
    "validation_guidance_skip_layers validation_guidance_skip_layers_start "
    "validation_guidance_skip_layers_stop validation_guidance_skip_scale "
    "validation_lycoris_strength validation_seed_source validation_noise_scheduler "
    "validation_multigpu validation_adapter_path validation_adapter_name "
    "validation_adapter_strength validation_adapter_mode validation_adapter_config",
    _NO_PICTURES,
)
SAMPLES.removed("validation_torch_compile")

_SIZE_PATTERN: Final = re.compile(r"([0-9]{1,5})(?:\.0+)?(?:x([0-9]{1,5})(?:\.0+)?)?")
_MULTIPLE_PX: Final = 16
_MAX_TOKENS_NAMED: Final = 5
_MAX_NICKNAME_SHOWN: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The sample image in the result."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance: float
    width_px: int
    height_px: int
    seed: int


def sample_of(
    config: Options, prompt_library: Mapping[str, JsonValue] | None, max_area_px: int
) -> Sample:
    """``max_area_px``: the largest area that the base model takes."""
    width_px, height_px = _size_px(config, max_area_px)
    return Sample(
        prompt=_prompt(config, prompt_library or {}),
        negative_prompt=_checked_tokens(config, _NEGATIVE, config[_NEGATIVE] or ""),
        steps=config[_STEPS],
        guidance=config[_GUIDANCE],
        width_px=width_px,
        height_px=height_px,
        seed=config[_SEED],
    )


def _prompt(config: Options, prompt_library: Mapping[str, JsonValue]) -> str:
    """The prompt of the sample: the validation prompt, else the first one of the library."""
    library = {
        nickname: _checked_prompt(nickname, prompt, config.findings)
        for nickname, prompt in prompt_library.items()
    }
    if written := config[_PROMPT]:
        if library:
            config.differs(_LIBRARY, _NO_PICTURES)
        return _checked_tokens(config, _PROMPT, written)
    if not library:
        if not config.is_wrong(_PROMPT):
            config.differs(_PROMPT, "is not given: the sample image has an empty prompt.")
        return ""
    nickname, prompt = next(iter(library.items()))
    if len(library) > 1:
        config.differs(
            _LIBRARY, f"the sample image has the first prompt, {nickname[:_MAX_NICKNAME_SHOWN]}."
        )
    return _checked_tokens(config, _LIBRARY, prompt)


def _checked_tokens(config: Options, option: Option[str | None], prompt: str) -> str:
    """The prompt; a notice names the placeholders in it, which nothing fills."""
    tokens = unfilled_tokens(prompt)
    if tokens:
        named = ", ".join(tokens[:_MAX_TOKENS_NAMED])
        config.differs(option, f"the placeholder {named} is used as it is.")
    return prompt


def _checked_prompt(nickname: str, prompt: JsonValue, findings: Findings) -> str:
    """A prompt is text, or an object with text as ``prompt``."""
    at = f"/prompt_library/{escaped(nickname)}"
    if not nickname.strip():
        findings.problem(at, "bad_value", "A prompt needs a nickname.")
    text = prompt
    if isinstance(prompt, dict):
        text, at = prompt.get("prompt"), f"{at}/prompt"
    if isinstance(text, str):
        return text
    message = f"{nickname}: a prompt has to be text, or an object with text under prompt."
    findings.problem(at, "bad_value", message)
    return ""


def _size_px(config: Options, max_area_px: int) -> tuple[int, int]:
    """Width and height: multiples of 16, within what the base model takes."""
    first, *others = (part.strip() for part in (config[_SIZE] or "").lower().split(","))
    found = _SIZE_PATTERN.fullmatch(first)
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (width and height):
        message = "validation_resolution has to be a number or WIDTHxHEIGHT, such as 1024x768."
        config.problem(_SIZE, "bad_value", message)
        return 1024, 1024
    if others:
        config.differs(_SIZE, f"the sample image has the first size, {first}.")
    # Sides first: raising a side afterwards could exceed the area that the model takes.
    longest = max_area_px // _MULTIPLE_PX
    width = min(max(width, _MULTIPLE_PX), longest)
    height = min(max(height, _MULTIPLE_PX), longest)
    shrink = min(1.0, math.sqrt(max_area_px / (width * height)))
    if shrink < 1:
        config.differs(_SIZE, f"{first} is more than the base model takes: lowered.")
    return _side_px(width * shrink), _side_px(height * shrink)


def _side_px(side_px: float) -> int:
    return max(1, int(side_px / _MULTIPLE_PX)) * _MULTIPLE_PX
