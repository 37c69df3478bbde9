"""Options of the sample image in the result, which pictures share."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.placeholders import unfilled_tokens
from trainer_core.config.simpletuner.reading import Options, escaped, typed_value
from trainer_core.config.simpletuner.verdicts import Option, Table

SAMPLES: Final = Table()

PROMPT: Final = SAMPLES.text(
    "validation_prompt", "", "Prompt of the sample image in the result, and of pictures."
)
NEGATIVE: Final = SAMPLES.text(
    "validation_negative_prompt", "", "Negative prompt of the sample image and of pictures."
)
STEPS: Final = SAMPLES.integer(
    "validation_num_inference_steps", 30, "Steps of the sampler.", at_least=1, at_most=1000
)
GUIDANCE: Final = SAMPLES.number(
    "validation_guidance", 5.0, "Guidance of the sample image and of pictures.", at_least=0
)
RESCALE: Final = SAMPLES.number(
    "validation_guidance_rescale",
    0.0,
    "Keeps strong guidance from raising the contrast of the sample image and of pictures: 0 not at "
    "all, 1 fully.",
    at_least=0,
    at_most=1,
)
SAMPLES.unlike(RESCALE, "SimpleTuner does not pass it to HiDream's pipeline.")
SIZE: Final = SAMPLES.text(
    "validation_resolution",
    "1024",
    "Sizes of pictures, with commas between them: an edge, or WIDTHxHEIGHT. The sample image has "
    "the first.",
)
SEED: Final = SAMPLES.integer(
    "validation_seed", 42, "Seed of the sample image and of pictures.", at_least=0
)
LIBRARY: Final = SAMPLES.path(
    "user_prompt_library",
    "Path of prompts by nickname, in a local run: each is painted while it trains. The first one "
    "is the sample's where validation_prompt is not given.",
)
SAMPLES.unlike(SIZE, "The size is taken as it is; SimpleTuner always paints about 1024² pixels.")

_SIZE_PATTERN: Final = re.compile(r"([0-9]{1,5})(?:\.0+)?(?:x([0-9]{1,5})(?:\.0+)?)?")
_MULTIPLE_PX: Final = 16
_MAX_TOKENS_NAMED: Final = 5
_MAX_NICKNAME_SHOWN: Final = 60
_MAX_PROMPTS: Final = 500
_MAX_SIZES: Final = 16
MAX_STRENGTH: Final = 100.0
"""Of the adapter in pictures."""
_STRENGTH: Final[Option[float | None]] = Option(
    name="adapter_strength",
    type="float",
    default=None,
    reason="Of the adapter in pictures of one prompt.",
    at_least=0,
    at_most=MAX_STRENGTH,
)
"""Of an object in the prompt library."""
PROMPT_NAME: Final = "validation"
"""Nickname of the validation prompt among those of the library, as in SimpleTuner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The sample image in the result."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance: float
    guidance_rescale: float
    width_px: int
    height_px: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One of those that are painted."""

    nickname: str
    text: str
    strength: float | None = None
    """Of the adapter in its pictures; None: that of all."""


Prompts = Sequence[Prompt]


def sample_of(
    config: Options,
    prompts: Prompts,
    sizes_px: Sequence[tuple[int, int]],
    *,
    has_pictures: bool,
) -> Sample:
    """The sample image has the first prompt and the first size.

    Args:
        config: the options.
        prompts: from ``prompts_of``.
        sizes_px: from ``sizes_of``.
        has_pictures: whether the run paints all of them while it trains.
    """
    width_px, height_px = sizes_px[0]
    if not prompts and not config.is_wrong(PROMPT):
        config.differs(PROMPT, "is not given: the sample image has an empty prompt.")
    if not has_pictures:
        _tell_unpainted(config, prompts, sizes_px)
    shown = prompts if has_pictures else prompts[:1]
    for number, prompt in enumerate(shown):
        option = PROMPT if config[PROMPT] and number == 0 else LIBRARY
        _check_tokens(config, option, prompt.text)
    _check_tokens(config, NEGATIVE, config[NEGATIVE] or "")
    if config[RESCALE] != rescale_of(config):
        config.idle("where validation_guidance is at most 1", RESCALE)
    return Sample(
        prompt=prompts[0].text if prompts else "",
        negative_prompt=config[NEGATIVE] or "",
        steps=config[STEPS],
        guidance=config[GUIDANCE],
        guidance_rescale=rescale_of(config),
        width_px=width_px,
        height_px=height_px,
        seed=config[SEED],
    )


def prompts_of(config: Options, prompt_library: Mapping[str, JsonValue]) -> Prompts:
    """The validation prompt, then those of the library."""
    written = config[PROMPT]
    first = [Prompt(nickname=PROMPT_NAME, text=written)] if written else []
    library = [
        _checked_prompt(nickname, prompt, config) for nickname, prompt in prompt_library.items()
    ]
    if len(library) > _MAX_PROMPTS:
        message = f"It has {len(library)} prompts, at most {_MAX_PROMPTS} are painted."
        config.findings.problem("/prompt_library", "bad_value", message)
    return [*first, *library]


def _tell_unpainted(config: Options, prompts: Prompts, sizes_px: Sequence[tuple[int, int]]) -> None:
    """What is given for pictures, of which there is only the sample image."""
    why = "no pictures are made while it trains."
    if len(prompts) > 1:
        nickname = prompts[0].nickname[:_MAX_NICKNAME_SHOWN]
        first = "validation_prompt" if config[PROMPT] else f"the first prompt, {nickname}"
        config.differs(LIBRARY, f"the sample image has {first}: {why}")
    if len(sizes_px) > 1:
        width_px, height_px = sizes_px[0]
        first = f"{width_px}x{height_px}"
        config.differs(SIZE, f"the sample image has the first size, {first}: {why}")
    tell_idle_strengths(config, prompts, "where no pictures are made while it trains")


def tell_idle_strengths(config: Options, prompts: Prompts, why: str) -> None:
    """Tell that a prompt's own strength has no effect, where one has it."""
    if any(prompt.strength is not None for prompt in prompts):
        config.notice("no_effect", LIBRARY, f"{_STRENGTH.name} has no effect {why}.")


def _check_tokens(config: Options, option: Option[str | None], prompt: str) -> None:
    """A notice names the placeholders in a prompt, which nothing fills."""
    tokens = unfilled_tokens(prompt)
    if tokens:
        named = ", ".join(tokens[:_MAX_TOKENS_NAMED])
        config.differs(option, f"the placeholder {named} is used as it is.")


def rescale_of(config: Options) -> float:
    """The rescaling of guidance; 0 where there is no guidance."""
    return config[RESCALE] if config[GUIDANCE] > 1 else 0.0


def _checked_prompt(nickname: str, prompt: JsonValue, config: Options) -> Prompt:
    """A prompt is text, or an object with text as ``prompt``.

    Of the object's other fields only ``adapter_strength`` acts.
    """
    findings = config.findings
    at = f"/prompt_library/{escaped(nickname)}"
    if not nickname.strip():
        findings.problem(at, "bad_value", "A prompt needs a nickname.")
    text, strength = prompt, None
    if isinstance(prompt, dict):
        text = prompt.get("prompt")
        strength = _checked_strength(at, prompt.get(_STRENGTH.name), config)
        if others := sorted(prompt.keys() - {"prompt", _STRENGTH.name}):
            named = f"only prompt and {_STRENGTH.name} are read of an object"
            config.differs(LIBRARY, f"{named}: {others[0][:60]} is not.")
        at = f"{at}/prompt"
    if not isinstance(text, str):
        message = f"{nickname}: a prompt has to be text, or an object with text under prompt."
        findings.problem(at, "bad_value", message)
        text = ""
    return Prompt(nickname=nickname, text=text, strength=strength)


def _checked_strength(at: str, written: JsonValue, config: Options) -> float | None:
    """``at``: JSON Pointer to the prompt's object."""
    strength = None if written is None else typed_value(_STRENGTH, written)
    if written is not None and strength is None:
        message = (
            f"{_STRENGTH.name} has to be a number from 0 to {MAX_STRENGTH:g}; 1 is as trained."
        )
        config.findings.problem(f"{at}/{_STRENGTH.name}", "bad_value", message)
    return strength


def sizes_of(config: Options, max_area_px: int) -> tuple[tuple[int, int], ...]:
    """Width and height of each size, once: multiples of 16, within what the base model takes."""
    parts = [part.strip() for part in (config[SIZE] or "").lower().split(",")]
    written = [part for part in parts if part] or [""]
    found = tuple(dict.fromkeys(_size_px(config, part, max_area_px) for part in written))
    if len(found) > _MAX_SIZES:
        message = f"validation_resolution has {len(found)} sizes, at most {_MAX_SIZES} are painted."
        config.problem(SIZE, "bad_value", message)
    return found


def _size_px(config: Options, written: str, max_area_px: int) -> tuple[int, int]:
    found = _SIZE_PATTERN.fullmatch(written)
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (width and height):
        message = (
            "validation_resolution has to be a number or WIDTHxHEIGHT, such as 1024x768, or "
            "several with commas between them."
        )
        config.problem(SIZE, "bad_value", message)
        return 1024, 1024
    # Sides first: raising a side afterwards could exceed the area that the model takes.
    longest = max_area_px // _MULTIPLE_PX
    width = min(max(width, _MULTIPLE_PX), longest)
    height = min(max(height, _MULTIPLE_PX), longest)
    shrink = min(1.0, math.sqrt(max_area_px / (width * height)))
    if shrink < 1:
        config.differs(SIZE, f"{written} is more than the base model takes: lowered.")
    return _side_px(width * shrink), _side_px(height * shrink)


def _side_px(side_px: float) -> int:
    return max(1, int(side_px / _MULTIPLE_PX)) * _MULTIPLE_PX
