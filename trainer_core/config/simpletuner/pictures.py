"""Options of the pictures that a run makes while it trains."""

from typing import Any, Final, Literal

from trainer_core.config.plan import (
    EmaPictures,
    PictureAdapter,
    PicturePrompt,
    Pictures,
    PictureSize,
    Previews,
    Sampler,
)
from trainer_core.config.plan.pictures import FREE_S, USUAL_SHARE
from trainer_core.config.simpletuner.ema import keeps_mean
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.samples import (
    GUIDANCE,
    MAX_STRENGTH,
    NEGATIVE,
    PROMPT,
    PROMPT_NAME,
    SEED,
    STEPS,
    Prompt,
    Prompts,
    rescale_of,
    tell_idle_strengths,
)
from trainer_core.config.simpletuner.steps import MAX_STEPS
from trainer_core.config.simpletuner.verdicts import Option, Table
from trainer_core.file_names import safe_names

PICTURES: Final = Table()
AdapterMode = Literal["adapter_only", "comparison", "none"]

_INTERVAL: Final = PICTURES.integer(
    "validation_step_interval",
    0,
    "Steps between pictures while it trains; 0: none for that.",
    at_least=0,
    at_most=MAX_STEPS,
)
PICTURES.unlike(
    _INTERVAL,
    "Where it is not given, and validation_epoch_interval is not, no pictures are made while it "
    "trains; SimpleTuner makes some every 100 steps. The result has a sample image in any case.",
)
PICTURES.alias("validation_steps", _INTERVAL)
_EPOCH_INTERVAL: Final = PICTURES.integer(
    "validation_epoch_interval",
    0,
    "Also pictures after the step that ends every n-th epoch; 0: none for that.",
    at_least=0,
    at_most=MAX_STEPS,
)
_STARTUP: Final = PICTURES.flag(
    "validation_on_startup",
    False,
    "Also pictures of the weights that training starts from, before the first step.",
)
_DISABLE: Final = PICTURES.flag(
    "validation_disable",
    False,
    "No pictures while it trains. The result still has its sample image.",
)
_NO_BASE: Final = PICTURES.flag(
    "disable_benchmark",
    False,
    "No pictures of the base model before the first step, with which others can be compared.",
)
_IMAGES: Final = PICTURES.integer(
    "num_validation_images",
    1,
    "Pictures of each prompt and size, with the seeds validation_seed, validation_seed + 1, …",
    at_least=1,
    at_most=64,
)
_AFTER_STEP: Final = PICTURES.integer(
    "validate_after_step",
    0,
    "No pictures of trained weights before this step.",
    at_least=0,
    at_most=MAX_STEPS,
)
_AFTER_EPOCH: Final = PICTURES.integer(
    "validate_after_epoch",
    0,
    "No pictures of trained weights before so many epochs are over.",
    at_least=0,
    at_most=MAX_STEPS,
)
_EMA: Final[Option[EmaPictures]] = PICTURES.choice(
    "ema_validation",
    EmaPictures,
    "comparison",
    "With use_ema: pictures of the last step's weights (none), of their mean (ema_only), or of "
    "both (comparison).",
)
_SCHEDULER: Final = PICTURES.text(
    "validation_noise_scheduler",
    None,
    "The sampler of pictures: euler, unipc or lcm, all of flow matching. Where it is not given, "
    "the one that the base model's scheduler_config.json names.",
)
PICTURES.unlike(
    _SCHEDULER,
    "SimpleTuner takes UniPC where it is not given, and knows no lcm for HiDream. That UniPC has a "
    "fixed shift of 3.158; here every sampler has the shift that is trained with.",
)
_STRENGTH: Final = PICTURES.number(
    "validation_lycoris_strength",
    1.0,
    "Strength of the adapter in pictures: 1 as it is trained.",
    at_least=0,
    at_most=MAX_STRENGTH,
)
_TIME_SHARE: Final[Option[float | None]] = PICTURES.number(
    "validation_time_share",
    None,
    "Reverie's own: the largest share of the run's time that pictures take, from its last start "
    "on; 1: no limit. What is due beyond it is left out with a warning. Where it is not given: "
    f"{USUAL_SHARE:g}, and {FREE_S / 60:g} minutes in any case.",
    above=0,
    at_most=1,
)
_PREVIEW: Final = PICTURES.flag(
    "validation_preview",
    False,
    "While a picture is sampled, a preview shows what it is going to be: samples/preview.png below "
    "the output folder, and GET /v1/runs/{id}/preview in the service.",
)
PICTURES.unlike(
    _PREVIEW,
    "Needs no webhook and no Tiny AutoEncoder: a linear map fitted to the VAE gives the colours.",
)
_PREVIEW_STEPS: Final = PICTURES.integer(
    "validation_preview_steps",
    1,
    "With validation_preview: a new preview after every n-th step of the sampler.",
    at_least=1,
    at_most=MAX_STEPS,
)
PREVIEW_DECODER: Final = PICTURES.text(
    "validation_preview_autoencoder",
    None,
    "Reverie's own, with validation_preview: a Tiny AutoEncoder of the base model's VAE, which "
    "shows more than colours: the folder of diffusers' AutoencoderTiny in safetensors, or the name "
    "of a model in the Hub's cache on this machine, such as madebyollin/taef1 for HiDream-I1. In "
    "the service the name of one that its operator has installed.",
)
_ADAPTER: Final = PICTURES.text(
    "validation_adapter_path",
    None,
    "In a local run: a further adapter that every picture shows beside what is trained: a file in "
    "safetensors, or the folder of a result or of a checkpoint. It is never trained.",
)
PICTURES.unlike(
    _ADAPTER, "Names no repository of the Hub: download the file first. It may also be a LoKr."
)
_ADAPTER_STRENGTH: Final = PICTURES.number(
    "validation_adapter_strength",
    1.0,
    "With validation_adapter_path: the strength of that adapter. That of the trained one is "
    "validation_lycoris_strength.",
    above=0,
    at_most=MAX_STRENGTH,
)
_ADAPTER_MODE: Final[Option[AdapterMode]] = PICTURES.choice(
    "validation_adapter_mode",
    AdapterMode,
    "adapter_only",
    "With validation_adapter_path: adapter_only shows that adapter in every picture, none in no "
    "picture.",
)
PICTURES.unlike(
    _ADAPTER_MODE,
    "comparison does as adapter_only and says so: each picture is made once. A run without the "
    "adapter, with the same seeds, makes the others.",
)
PICTURES.differs(
    "validation_prompt_library",
    "the prompts that SimpleTuner brings are not painted: write yours into user_prompt_library.",
)
PICTURES.differs(
    "validation_using_datasets", "pictures are made from prompts alone: HiDream-I1 takes no image."
)
PICTURES.differs("validation_external_script", "no script of yours is run.")
PICTURES.differs("validation_method", "no script of yours is run.", "simpletuner-local")
PICTURES.differs(
    "validation_randomize",
    "pictures have the same seeds at each step, so that they can be compared.",
)
PICTURES.differs(
    "validation_seed_source", "noise is drawn on the CPU, and is the same on every device.", "cpu"
)
PICTURES.differs(
    "validation_adapter_config",
    "pictures show one further adapter at most, that of validation_adapter_path.",
)
PICTURES.no_effect(
    "validation_adapter_name",
    "A further adapter needs no name: the pictures' files have its SHA-256.",
)
PICTURES.no_effect(
    "validation_guidance_real validation_no_cfg_until_timestep validation_guidance_skip_layers "
    "validation_guidance_skip_layers_start validation_guidance_skip_layers_stop "
    "validation_guidance_skip_scale",
    "HiDream's pipeline has no such guidance; validation_guidance acts.",
)
PICTURES.no_effect(
    "validation_disable_unconditional",
    "A picture without a prompt is made only where no prompt is given, or where "
    "user_prompt_library has an empty one.",
)
PICTURES.no_effect(
    "validation_multigpu", "Every GPU of a run samples each picture, and one stores it."
)
PICTURES.removed("validation_torch_compile")
PICTURES.no_effect("validation_torch_compile_fullgraph", "Sampling is not compiled.")

_SAMPLERS: Final[dict[str, Sampler]] = {
    "euler": "euler",
    "flow_euler": "euler",
    "flow_matching": "euler",
    "flow_match_euler": "euler",
    "unipc": "unipc",
    "flow_unipc": "unipc",
    "lcm": "lcm",
}
_NOT_FLOW: Final = ("ddim", "ddpm", "euler-a", "dpm++", "perflow")
_MAX_AT_ONCE: Final = 1000
_ON_STEPS: Final = "validation_step_interval or validation_epoch_interval"
_OF_PICTURES: Final[tuple[Option[Any], ...]] = (
    _IMAGES,
    _AFTER_STEP,
    _AFTER_EPOCH,
    _EMA,
    _SCHEDULER,
    _STRENGTH,
    _TIME_SHARE,
    _PREVIEW,
    _PREVIEW_STEPS,
    PREVIEW_DECODER,
    _ADAPTER,
    _ADAPTER_STRENGTH,
    _ADAPTER_MODE,
)
"""Those that have no effect where no pictures are made."""


def pictures_of(
    config: Options, prompts: Prompts, sizes_px: tuple[tuple[int, int], ...]
) -> Pictures | None:
    """None where no pictures are made. ``prompts`` and ``sizes_px``: of ``samples``."""
    sampler = _sampler_of(config)
    intervals = config[_INTERVAL], config[_EPOCH_INTERVAL]
    if config[_DISABLE]:
        wanted = (_INTERVAL, _EPOCH_INTERVAL, _STARTUP)
        _tell_idle(config, "with validation_disable", *wanted, *_OF_PICTURES)
        return None
    if not (any(intervals) or config[_STARTUP]):
        _tell_idle(config, f"without {_ON_STEPS} or validation_on_startup", *_OF_PICTURES)
        return None
    if is_full_rank(config):
        _tell_idle(config, "where all weights are trained", _STRENGTH)
        tell_idle_strengths(config, prompts, "where all weights are trained")
    if not keeps_mean(config):
        _tell_idle(config, "without use_ema", _EMA)
    if not any(intervals):
        _tell_idle(config, f"without {_ON_STEPS}", _AFTER_STEP, _AFTER_EPOCH)
    named = prompts or [Prompt(nickname=PROMPT_NAME, text="")]
    names = safe_names(prompt.nickname for prompt in named)
    pictures = Pictures(
        prompts=tuple(
            PicturePrompt(
                name=name,
                text=prompt.text,
                strength=None if is_full_rank(config) else prompt.strength,
            )
            for name, prompt in zip(names, named, strict=True)
        ),
        negative_prompt=config[NEGATIVE] or "",
        sizes=tuple(PictureSize(width_px=width, height_px=height) for width, height in sizes_px),
        seeds=tuple(config[SEED] + number for number in range(config[_IMAGES])),
        steps=config[STEPS],
        guidance=config[GUIDANCE],
        guidance_rescale=rescale_of(config),
        sampler=sampler,
        step_interval=intervals[0] or None,
        epoch_interval=intervals[1] or None,
        on_startup=config[_STARTUP],
        has_base=not config[_NO_BASE],
        ema=config[_EMA],
        after_step=config[_AFTER_STEP],
        after_epoch=config[_AFTER_EPOCH],
        strength=1.0 if is_full_rank(config) else config[_STRENGTH],
        time_share=config[_TIME_SHARE],
        previews=_previews_of(config),
        adapter=_adapter_of(config),
    )
    at_once = len(pictures.prompts) * len(pictures.sizes) * len(pictures.seeds)
    if at_once > _MAX_AT_ONCE:
        message = (
            f"{at_once} pictures would be made at a time, at most {_MAX_AT_ONCE} can be: lower "
            "num_validation_images, or give fewer prompts or sizes."
        )
        config.problem(_IMAGES if config.given(_IMAGES) else PROMPT, "bad_value", message)
    return pictures


def _previews_of(config: Options) -> Previews | None:
    if not config[_PREVIEW]:
        _tell_idle(config, "without validation_preview", _PREVIEW_STEPS, PREVIEW_DECODER)
        return None
    if config[_PREVIEW_STEPS] > config[STEPS]:
        why = f"with validation_preview_steps above the {config[STEPS]} steps of the sampler"
        config.idle(why, _PREVIEW)
        return None
    autoencoder = (config[PREVIEW_DECODER] or "").strip() or None
    return Previews(steps=config[_PREVIEW_STEPS], autoencoder=autoencoder)


def _adapter_of(config: Options) -> PictureAdapter | None:
    path = (config[_ADAPTER] or "").strip()
    if path in ("", "None"):
        _tell_idle(config, "without validation_adapter_path", _ADAPTER_STRENGTH, _ADAPTER_MODE)
        return None
    if config.source == "http":
        config.differs(
            _ADAPTER,
            "in the service pictures show what is trained alone; a local run (reverie train) also "
            "shows a further adapter.",
        )
        _tell_idle(config, "in the service", _ADAPTER_STRENGTH, _ADAPTER_MODE)
        return None
    if config[_ADAPTER_MODE] == "none":
        config.idle("with validation_adapter_mode none", _ADAPTER)
        return None
    if config[_ADAPTER_MODE] == "comparison":
        config.differs(
            _ADAPTER_MODE,
            "every picture shows the adapter of validation_adapter_path: a run without it, with "
            "the same seeds, makes those to compare with.",
        )
    return PictureAdapter(path=path, strength=config[_ADAPTER_STRENGTH])


def _tell_idle(config: Options, why: str, *options: Option[Any]) -> None:
    """Tell of each option that asks for something that it has no effect."""
    config.idle(why, *(option for option in options if config[option] != option.default))


def _sampler_of(config: Options) -> Sampler | None:
    written = (config[_SCHEDULER] or "").strip().lower()
    if written in ("", "none", "null"):
        return None
    if written in _NOT_FLOW:
        message = (
            f"validation_noise_scheduler {written} is refused: it samples models that predict "
            "noise, and HiDream-I1 predicts a velocity. Take euler, unipc or lcm, or leave it out."
        )
        config.problem(_SCHEDULER, "refused", message)
        return None
    if written not in _SAMPLERS:
        message = f"validation_noise_scheduler has to be euler, unipc or lcm, not {written[:60]}."
        config.problem(_SCHEDULER, "bad_value", message)
        return None
    return _SAMPLERS[written]
