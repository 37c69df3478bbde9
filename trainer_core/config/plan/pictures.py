"""The pictures that a run makes while it trains. They change no weight. Imports no torch."""

from typing import ClassVar, Final, Literal

from pydantic import Field

from trainer_core.config.plan.frozen import Frozen, Many, Sparse

Sampler = Literal["euler", "unipc", "lcm"]
"""Of flow matching: Euler steps, the multistep UniPC, or LCM, which distilled models need."""
Shown = Literal["trained", "ema", "base"]
"""The weights that a picture shows: those of the step, their running mean (EMA), or the base
model's own."""
EmaPictures = Literal["none", "ema_only", "comparison"]

FREE_S: Final = 600.0
"""Where no share of the time is given, so many seconds of pictures are always made."""
USUAL_SHARE: Final = 0.5
"""Where none is given, pictures may take this share of the time once ``FREE_S`` are over."""


class PicturePrompt(Sparse):
    """What a picture shows."""

    left_out: ClassVar = ("strength",)

    name: str
    """A file name without suffix; unique in the run, also where case is ignored."""
    text: str
    strength: float | None = None
    """Of the adapter in pictures of this prompt; None: that of all pictures."""


class PictureSize(Frozen):
    """In pixels; multiples of 16."""

    width_px: int = Field(ge=16)
    height_px: int = Field(ge=16)


class Previews(Frozen):
    """Small pictures of what a sampler makes, while it makes it."""

    steps: int = Field(ge=1)
    """One after every n-th step of the sampler."""
    autoencoder: str | None
    """The Tiny AutoEncoder that decodes them: its folder, or the name of a model in the Hub's cache
    on the machine. None: a linear map that is fitted to the VAE."""


class PictureAdapter(Frozen):
    """An adapter that pictures show beside the weights of the run, which never train with it."""

    path: str
    """An adapter file, or a folder that has one, on the machine of the run."""
    strength: float = Field(gt=0)


class Pictures(Sparse):
    """Which pictures a run makes, when, and how."""

    left_out: ClassVar = (
        *("guidance_rescale", "after_step", "after_epoch", "strength", "time_share"),
        "clip_model",
        "previews",
        "adapter",
    )

    prompts: Many[PicturePrompt] = Field(min_length=1)
    negative_prompt: str
    sizes: Many[PictureSize] = Field(min_length=1)
    """Each prompt is painted at each of these sizes, with each of the seeds."""
    seeds: Many[int] = Field(min_length=1)
    steps: int = Field(ge=1)
    """Steps of the sampler."""
    guidance: float
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    """Of guidance above 1; 0: not at all."""
    sampler: Sampler | None
    """None: the one that the base model's scheduler names."""
    step_interval: int | None = Field(ge=1)
    """Pictures are made after every n-th step; None: after none for that."""
    epoch_interval: int | None = Field(ge=1)
    """Pictures are also made after the step that ends every n-th epoch."""
    on_startup: bool
    """Whether the weights that training starts from are painted at step 0."""
    has_base: bool
    """Whether the base model's own pictures are made at step 0."""
    ema: EmaPictures
    """Which pictures show the running mean of a run that keeps one."""
    after_step: int = Field(default=0, ge=0)
    """No trained weights are painted before this step."""
    after_epoch: int = Field(default=0, ge=0)
    """Nor before so many epochs are over."""
    strength: float = 1.0
    """Of the adapter in the pictures: 1 is as it is trained."""
    time_share: float | None = Field(default=None, gt=0, le=1)
    """The largest share of the time since the process started that pictures take; 1: no limit.
    None: ``USUAL_SHARE`` of it, and ``FREE_S`` seconds in any case."""
    clip_model: str | None = None
    """Folder or repository of the CLIP model that scores each picture, in a local run; None: no
    picture is scored."""
    previews: Previews | None = None
    """None: nothing is shown of a picture before it is done."""
    adapter: PictureAdapter | None = None
    """Acts in every picture, in those of the base model too; None: there is no such adapter."""

    def strength_of(self, prompt: PicturePrompt) -> float:
        """Of the adapter in the pictures of one of the prompts."""
        return self.strength if prompt.strength is None else prompt.strength

    def texts(self) -> tuple[str, ...]:
        """Each text whose embeddings the pictures need, once."""
        return tuple(
            dict.fromkeys((*(prompt.text for prompt in self.prompts), self.negative_prompt))
        )

    def before_training(self, *, has_start: bool) -> tuple[Shown, ...]:
        """What the pictures before the first step show; ``has_start``: there is a start adapter."""
        is_base = self.has_base or (self.on_startup and not has_start)
        is_start = self.on_startup and has_start
        return (*(("base",) if is_base else ()), *(("trained",) if is_start else ()))

    def after_steps(self, *, has_mean: bool) -> tuple[Shown, ...]:
        """What the pictures after a step show; ``has_mean``: the run keeps a running mean."""
        if not has_mean or self.ema == "none":
            return ("trained",)
        return ("ema",) if self.ema == "ema_only" else ("trained", "ema")

    def allowed_s(self, elapsed_s: float) -> float:
        """Seconds that pictures may have taken, ``elapsed_s`` after the process started."""
        if self.time_share is not None:
            return self.time_share * elapsed_s
        return max(FREE_S, USUAL_SHARE * elapsed_s)
